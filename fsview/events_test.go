package fsview_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"qlive/fsview"
	"qlive/vmstate"
)

// cat is a process that reads events.
type cat struct {
	cmd   *exec.Cmd
	lines *bufio.Reader
}

func startCat(t *testing.T, tree *fsview.FS) *cat {
	t.Helper()
	cmd := exec.Command("cat", filepath.Join(tree.Dir(), "events"))
	cmd.Stderr = os.Stderr
	// A pipe of our own: Wait would close the one that StdoutPipe gives.
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout = w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		r.Close()
	})
	if err := r.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	return &cat{cmd, bufio.NewReader(r)}
}

func (c *cat) line(t *testing.T) vmstate.Event {
	t.Helper()
	line, err := c.lines.ReadBytes('\n')
	if err != nil {
		t.Fatalf("no further event: %v, %q", err, line)
	}
	var e vmstate.Event
	if err := json.Unmarshal(line, &e); err != nil {
		t.Fatalf("cannot read an event: %v, %q", err, line)
	}
	return e
}

// ends makes sure that cat has found the end of the file, and was content.
func (c *cat) ends(t *testing.T) {
	t.Helper()
	rest, err := io.ReadAll(c.lines)
	if err != nil || len(rest) != 0 {
		t.Errorf("instead of the end came %q, %v", rest, err)
	}
	if err := c.cmd.Wait(); err != nil {
		t.Errorf("cat: %v", err)
	}
}

func event(seq uint64) vmstate.Event {
	return vmstate.Event{Seq: seq, At: at(int(seq % 60)), Type: vmstate.EventVM, VM: "vm1", Data: example().VMs[0]}
}

func TestEventsFollow(t *testing.T) {
	source := newFake(example())
	tree := mount(t, source, fsview.Options{})
	a, b := startCat(t, tree), startCat(t, tree)
	for _, c := range []*cat{a, b} {
		if e := c.line(t); e.Type != vmstate.EventReset || e.Seq != 41 {
			t.Errorf("the first event is %+v", e)
		}
	}
	for seq := uint64(42); seq < 50; seq++ {
		source.send(event(seq)) // and now they must come out, though nothing follows
		for _, c := range []*cat{a, b} {
			if e := c.line(t); e.Seq != seq || e.VM != "vm1" {
				t.Errorf("event %d is %+v", seq, e)
			}
		}
	}
	source.close()
	a.ends(t)
	b.ends(t)
	eventually(t, "subscriptions end", func() bool { return source.listeners() == 0 })
}

func TestEventsSlowReaderIsCutOff(t *testing.T) {
	source := newFake(example())
	source.backlog = 3
	tree := mount(t, source, fsview.Options{})
	slow, err := os.Open(filepath.Join(tree.Dir(), "events"))
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	for seq := uint64(42); source.listeners() > 0; seq++ {
		source.send(event(seq))
	}
	data, err := io.ReadAll(slow)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	if !strings.Contains(lines[0], `"type":"reset"`) || !strings.Contains(lines[len(lines)-1], `"type":"lost"`) {
		t.Errorf("not from reset to lost: %q … %q", lines[0], lines[len(lines)-1])
	}
	if n := bytes.Count(data, []byte(`"type":"vm"`)); n != len(lines)-2 || n == 0 {
		t.Errorf("%d events between the first and the last of %d lines", n, len(lines))
	}
	// And it may come again.
	again := startCat(t, tree)
	if e := again.line(t); e.Type != vmstate.EventReset {
		t.Errorf("the first event is %+v", e)
	}
}

func TestEventsInSmallReads(t *testing.T) {
	source := newFake(example())
	tree := mount(t, source, fsview.Options{})
	f, err := os.Open(filepath.Join(tree.Dir(), "events"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for seq := uint64(42); seq < 60; seq++ {
		source.send(event(seq))
	}
	source.close()
	var all []byte
	for buf := make([]byte, 7); ; {
		n, err := f.Read(buf)
		all = append(all, buf[:n]...)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	seq := uint64(41)
	for line := range bytes.Lines(all) {
		var e vmstate.Event
		if err := json.Unmarshal(line, &e); err != nil || e.Seq != seq {
			t.Fatalf("event %d: %v, %q", seq, err, line)
		}
		seq++
	}
	if seq != 60 {
		t.Errorf("%d events, not 19", seq-41)
	}
}

func TestEventsAndSignals(t *testing.T) {
	source := newFake(example())
	tree := mount(t, source, fsview.Options{})
	t.Run("stopped and continued", func(t *testing.T) {
		c := startCat(t, tree)
		c.line(t)
		for seq := uint64(42); seq < 50; seq++ {
			for _, sig := range []unix.Signal{unix.SIGSTOP, unix.SIGCONT} {
				if err := c.cmd.Process.Signal(sig); err != nil {
					t.Fatal(err)
				}
			}
			source.send(event(seq))
			if e := c.line(t); e.Seq != seq {
				t.Errorf("event %d is %+v", seq, e)
			}
		}
	})
	for _, sig := range []unix.Signal{unix.SIGINT, unix.SIGKILL} {
		t.Run(sig.String(), func(t *testing.T) {
			c := startCat(t, tree)
			c.line(t)
			if err := c.cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			var exit *exec.ExitError
			if err := c.cmd.Wait(); !errors.As(err, &exit) || exit.Sys().(interface{ Signal() unix.Signal }).Signal() != sig {
				t.Errorf("cat ended with %v", err)
			}
		})
	}
	eventually(t, "subscriptions end", func() bool { return source.listeners() == 0 })
}

func TestEventsOneDescriptorTwoReaders(t *testing.T) {
	source := newFake(example())
	tree := mount(t, source, fsview.Options{})
	// Two processes share one open file: each line goes to one of them, whole.
	script := `exec 3<"$0"; (cat <&3 >"$1/a") & (cat <&3 >"$1/b") & wait`
	out := t.TempDir()
	cmd := exec.Command("sh", "-c", script, filepath.Join(tree.Dir(), "events"), out)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	read := func() string {
		a, _ := os.ReadFile(filepath.Join(out, "a"))
		b, _ := os.ReadFile(filepath.Join(out, "b"))
		return string(a) + string(b)
	}
	eventually(t, "the first event", func() bool { return strings.Count(read(), "\n") == 1 })
	for seq := uint64(42); seq < 62; seq++ {
		source.send(event(seq))
	}
	source.close()
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if n := source.listeners() + strings.Count(read(), "\n"); n != 21 {
		t.Errorf("%d events, not 21", n)
	}
	for line := range strings.Lines(read()) {
		if !json.Valid([]byte(line)) {
			t.Errorf("not a whole line: %q", line)
		}
	}
}

func TestEventsTooManyReaders(t *testing.T) {
	source := newFake(example())
	tree := mount(t, source, fsview.Options{MaxEventReaders: 2})
	name := filepath.Join(tree.Dir(), "events")
	open := func() *os.File {
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	a, b := open(), open()
	defer b.Close()
	if _, err := os.Open(name); !errors.Is(err, unix.EMFILE) {
		t.Errorf("the third reader: %v, not EMFILE", err)
	}
	a.Close()
	eventually(t, "the place is given back", func() bool { return source.listeners() == 1 })
	open().Close()
}

func TestEventsAfterStop(t *testing.T) {
	source := newFake(example())
	tree := mount(t, source, fsview.Options{})
	source.close()
	c := startCat(t, tree)
	if e := c.line(t); e.Type != vmstate.EventReset {
		t.Errorf("the first event is %+v", e)
	}
	c.ends(t)
}
