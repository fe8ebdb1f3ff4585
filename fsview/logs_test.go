package fsview_test

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"qlive/fsview"
	"qlive/vmstate/logfile"
)

// console is a VM's console: files that grow, and more of them with each handoff.
type console struct {
	t      *testing.T
	source *fake
	dir    string
	files  []string
	made   int
}

func newConsole(t *testing.T) *console {
	return &console{t: t, source: newFake(example()), dir: t.TempDir()}
}

// publish tells the tree of the files there are now.
func (c *console) publish() {
	s := example()
	s.VMs[0].ConsoleLog = append([]string(nil), c.files...)
	c.source.snap.Store(s)
}

func (c *console) generation() {
	c.made++
	c.files = append(c.files, filepath.Join(c.dir, fmt.Sprint("console-", c.made)))
	c.write("")
	c.publish()
}

// write adds text to the newest file.
func (c *console) write(text string) { c.writeTo(c.files[len(c.files)-1], text) }

func (c *console) writeTo(name, text string) {
	f, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		c.t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		c.t.Fatal(err)
	}
}

func (c *console) mount() string {
	return filepath.Join(mount(c.t, c.source, fsview.Options{}).Dir(), "vm1", "console")
}

func TestLogPrograms(t *testing.T) {
	c := newConsole(t)
	var all strings.Builder
	for g := range 7 { // lengths that fit no block
		c.generation()
		before := all.Len()
		for i := range 5000 * (g % 3) {
			fmt.Fprintf(&all, "generation %d line %d\n", g, i)
		}
		c.write(all.String()[before:])
	}
	name, want := c.mount(), all.String()
	for _, p := range []struct {
		args []string
		want string
	}{
		{[]string{"cat"}, want},
		{[]string{"head", "-n", "7000"}, firstLines(want, 7000)},
		{[]string{"tail", "-n", "3"}, lastLines(want, 3)},
		{[]string{"tail", "-n", "7000"}, lastLines(want, 7000)},
		{[]string{"tail", "-n", "12345"}, lastLines(want, 12345)},
		{[]string{"tail", "-c", "200000"}, want[len(want)-200000:]},
		{[]string{"tail", "-c", "+100001"}, want[100000:]},
		{[]string{"grep", "-c", "generation 4"}, "5000\n"},
		{[]string{"wc", "-c"}, fmt.Sprintf("%d %s\n", len(want), name)},
		{[]string{"wc", "-l"}, fmt.Sprintf("%d %s\n", strings.Count(want, "\n"), name)},
		{[]string{"stat", "-c", "%s"}, fmt.Sprintln(len(want))},
		{[]string{"tac"}, reversed(want)},
	} {
		t.Run(strings.Join(p.args, " "), func(t *testing.T) {
			out, err := command(p.args[0], append(p.args[1:], name)...).Output()
			if err != nil || string(out) != p.want {
				t.Errorf("%v, %d bytes, not %d", err, len(out), len(p.want))
			}
		})
	}
	t.Run("cp", func(t *testing.T) {
		to := filepath.Join(t.TempDir(), "copy")
		if out, err := command("cp", name, to).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if copied, err := os.ReadFile(to); err != nil || string(copied) != want {
			t.Errorf("%v, %d bytes, not %d", err, len(copied), len(want))
		}
	})
	t.Run("anywhere", func(t *testing.T) {
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for range 200 {
			off, n := rand.IntN(len(want)+10), rand.IntN(300_000)
			got := make([]byte, n)
			n, err := f.ReadAt(got, int64(off))
			from := min(off, len(want))
			if to := min(off+len(got), len(want)); string(got[:n]) != want[from:to] {
				t.Fatalf("%d bytes at %d: %d bytes that differ, %v", len(got), off, n, err)
			}
		}
	})
}

func firstLines(s string, n int) string {
	return strings.Join(strings.SplitAfterN(s, "\n", n+1)[:n], "")
}

func lastLines(s string, n int) string {
	lines := strings.SplitAfter(s, "\n")
	return strings.Join(lines[len(lines)-1-n:], "")
}

func reversed(s string) string {
	lines := strings.SplitAfter(strings.TrimSuffix(s, "\n"), "\n")
	lines[len(lines)-1] += "\n"
	var b strings.Builder
	for i := len(lines) - 1; i >= 0; i-- {
		b.WriteString(lines[i])
	}
	return b.String()
}

// TestLogFollow has tail -f follow a guest through its handoffs, one of which comes to nothing.
func TestLogFollow(t *testing.T) {
	c := newConsole(t)
	c.generation()
	c.write("a1\n")
	name := c.mount()
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	tail := exec.Command("tail", "-n", "+1", "-s", "0.02", "-f", name)
	tail.Stdout, tail.Stderr = out, out
	if err := tail.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = tail.Process.Kill()
		_ = tail.Wait()
	}()
	want := ""
	sees := func(more string) {
		t.Helper()
		want += more
		eventually(t, fmt.Sprintf("tail -f shows %q", more), func() bool {
			data, err := os.ReadFile(out.Name())
			return err == nil && string(data) == want
		})
	}
	sees("a1\n")
	c.write("a2\n")
	sees("a2\n")

	c.generation() // a target is there, but the source still writes
	c.files = c.files[:1]
	c.write("a3\n")
	sees("a3\n")
	c.publish() // it has come to nothing
	c.write("a4\n")
	sees("a4\n")

	c.generation() // the next one has not
	c.write("b1\n")
	sees("b1\n")
	c.writeTo(c.files[0], "late\n") // too late to be shown in its place
	c.write("b2\n")
	sees("b2\n")
}

// TestLogModel compares a reader that goes on and on with the text in the order in which it was written.
func TestLogModel(t *testing.T) {
	c := newConsole(t)
	c.generation()
	name := c.mount()
	rapid.Check(t, func(rt *rapid.T) {
		c.files = nil
		c.generation()
		f, err := os.Open(name)
		if err != nil {
			rt.Fatal(err)
		}
		defer f.Close()
		var written, read bytes.Buffer
		readSome := func(rt *rapid.T, n int) {
			buf := make([]byte, n)
			n, err := f.Read(buf)
			if err != nil && err != io.EOF {
				rt.Fatal(err)
			}
			read.Write(buf[:n])
			if !bytes.HasPrefix(written.Bytes(), read.Bytes()) {
				rt.Fatalf("read %q, written %q", &read, &written)
			}
		}
		rt.Repeat(map[string]func(*rapid.T){
			"write": func(rt *rapid.T) {
				text := rapid.StringN(1, 20, 50).Draw(rt, "text")
				c.write(text)
				written.WriteString(text)
			},
			"hand over": func(*rapid.T) { c.generation() },
			"hand over in vain": func(*rapid.T) {
				c.generation()
				c.files = c.files[:len(c.files)-1]
				if rapid.Bool().Draw(rt, "read between") {
					readSome(rt, 10)
				}
				c.publish()
			},
			"read":    func(rt *rapid.T) { readSome(rt, rapid.IntRange(1, 60).Draw(rt, "n")) },
			"restart": func(*rapid.T) { c.publish() },
		})
		for range written.Len() + 2 {
			readSome(rt, 100)
		}
		if read.Len() != written.Len() {
			rt.Fatalf("read %d bytes, written %d", read.Len(), written.Len())
		}
	})
}

func TestLogWithoutFiles(t *testing.T) {
	c := newConsole(t)
	fifo := filepath.Join(c.dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	c.files = []string{filepath.Join(c.dir, "missing"), fifo, c.dir}
	c.publish()
	name := c.mount()
	if data, err := os.ReadFile(name); err != nil || len(data) != 0 {
		t.Errorf("%q, %v", data, err)
	}
	c.generation()
	c.write("text\n")
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if data, err := io.ReadAll(f); err != nil || string(data) != "text\n" {
		t.Errorf("%q, %v", data, err)
	}
	if err := os.Remove(c.files[len(c.files)-1]); err != nil {
		t.Fatal(err)
	}
	if n, err := f.ReadAt(make([]byte, 10), 0); n != 0 || err != io.EOF {
		t.Errorf("of a file that is gone: %d, %v", n, err)
	}
}

func TestLogIsNotLoaded(t *testing.T) {
	c := newConsole(t)
	c.generation()
	if err := os.Truncate(c.files[0], 1<<40); err != nil { // a terabyte of nothing
		t.Fatal(err)
	}
	c.generation()
	c.write("the end\n")
	name := c.mount()
	out, err := command("tail", "-c", "8", name).Output()
	if err != nil || string(out) != "the end\n" {
		t.Errorf("%q, %v", out, err)
	}
}

// TestLogOfAnotherVM: a VM was removed and started again under its name while somebody reads the old one's log.
func TestLogOfAnotherVM(t *testing.T) {
	c := newConsole(t)
	c.generation()
	c.write("old 1\n")
	c.generation()
	c.write("old 2\n")
	f, err := os.Open(c.mount())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	buf := make([]byte, 8) // into the second file: the first is complete now
	if _, err := io.ReadFull(f, buf); err != nil {
		t.Fatal(err)
	}
	c.files = nil
	for g := range 3 {
		c.generation()
		c.write(fmt.Sprintf("new %d\n", g))
	}
	if rest, err := io.ReadAll(f); err != nil || string(buf)+string(rest) != "old 1\nold 2\n" {
		t.Errorf("%q, then %q, %v", buf, rest, err)
	}
}

// A text whose beginning has been dropped begins later, and is as long as what is left; a reader who has it open reads on where it was.
func TestTrimmedLog(t *testing.T) {
	dir, err := os.MkdirTemp("/dev/shm", "logs") // a tmpfs, as the run directory is
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	const size = 300 << 10
	s := example()
	s.VMs[0].ConsoleLog = []string{filepath.Join(dir, "g0"), filepath.Join(dir, "g1")}
	for i, path := range s.VMs[0].ConsoleLog {
		if err := os.WriteFile(path, bytes.Repeat([]byte{byte('a' + i)}, size), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	tree := mount(t, newFake(s), fsview.Options{})
	name := filepath.Join(tree.Dir(), "vm1", "console")
	early, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer early.Close()
	if _, err := io.ReadFull(early, make([]byte, size)); err != nil {
		t.Fatal(err)
	}
	if err := logfile.Trim(s.VMs[0].ConsoleLog, size); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(early); err != nil || string(rest) != strings.Repeat("b", size) {
		t.Errorf("who had read the first file reads %d bytes, %v", len(rest), err)
	}
	text, err := os.ReadFile(name)
	if err != nil || len(text) < size || len(text) > size+(64<<10) || strings.Trim(string(text), "b") != "" {
		t.Errorf("%d bytes are left, %v", len(text), err)
	}
	if info, err := os.Stat(name); err != nil || info.Size() != int64(len(text)) {
		t.Errorf("the size is %v, %v, and %d bytes are read", info.Size(), err, len(text))
	}
}
