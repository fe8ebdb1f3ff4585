package journal

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"qlive/vmstate"
)

type step struct {
	Migration string `json:"migration"`
	Phase     string `json:"phase"`
	Detail    string `json:"detail,omitempty"`
}

// write makes a journal of the records and returns its path.
func write(t testing.TB, records ...any) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "journal")
	appendTo(t, path, records...)
	return path
}

func appendTo(t testing.TB, path string, records ...any) {
	t.Helper()
	j, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range records {
		if err := j.Append(r); err != nil {
			t.Fatal(err)
		}
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
}

func readFile(t testing.TB, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func checkKind(t *testing.T, err error, kind vmstate.Kind, words ...string) {
	t.Helper()
	e, ok := errors.AsType[*vmstate.Error](err)
	if !ok || e.Kind != kind {
		t.Fatalf("error %v, want kind %s", err, kind)
	}
	for _, word := range words {
		if !strings.Contains(e.Error(), word) {
			t.Errorf("%q does not say %q", e, word)
		}
	}
}

// dataOf are the records' data as text; it fails the test if their numbers are not 1, 2, 3 and so on.
func dataOf(t testing.TB, records []Record) []string {
	t.Helper()
	data := []string{}
	for i, r := range records {
		if r.Seq != uint64(i)+1 {
			t.Fatalf("record %d has number %d", i+1, r.Seq)
		}
		data = append(data, string(r.Data))
	}
	return data
}

func TestRoundTrip(t *testing.T) {
	before := time.Now()
	path := write(t, step{"mig-1", "planned", ""}, step{"mig-1", "failed", "cannot <go> & \"on\"\n\x00é\u2028"}, nil, json.RawMessage("{ \"a\":\n[1, 2] }"))
	appendTo(t, path, 42)
	records, err := Read(path)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := dataOf(t, records), []string{
		`{"migration":"mig-1","phase":"planned"}`,
		`{"migration":"mig-1","phase":"failed","detail":"cannot <go> & \"on\"\n\u0000é\u2028"}`,
		`null`, `{"a":[1,2]}`, `42`,
	}; strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("read\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for _, r := range records {
		if r.At.Before(before.Add(-time.Second)) || r.At.After(time.Now().Add(time.Second)) {
			t.Errorf("record %d is of %s", r.Seq, r.At)
		}
	}
	for line := range bytes.Lines(readFile(t, path)) {
		if !json.Valid(line) {
			t.Errorf("line %s is no JSON", line)
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v (%v), want 0600", info.Mode(), err)
	}
}

func TestNoJournal(t *testing.T) {
	if records, err := Read(filepath.Join(t.TempDir(), "none")); !errors.Is(err, fs.ErrNotExist) || records != nil {
		t.Errorf("read %v, %v", records, err)
	}
	_, err := Open(filepath.Join(t.TempDir(), "none", "journal"))
	checkKind(t, err, vmstate.Host, "none/journal")
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if records, err := Read(empty); err != nil || len(records) != 0 {
		t.Errorf("read %v, %v from an empty file", records, err)
	}
	appendTo(t, empty, 1)
	if records, err := Read(empty); err != nil || len(records) != 1 {
		t.Errorf("read %v, %v", records, err)
	}
}

func TestTruncatedAtEveryByte(t *testing.T) {
	path := write(t, step{"mig-1", "planned", `a,"crc32c":"00000000"}`}, step{"mig-1", "preparing", "é"}, step{"mig-1", "prepared", ""})
	whole := readFile(t, path)
	for size := range whole {
		if err := os.WriteFile(path, whole[:size], 0o600); err != nil {
			t.Fatal(err)
		}
		lines := bytes.Count(whole[:size], []byte("\n"))
		onBorder := size == 0 || whole[size-1] == '\n'
		if whole[size] == '\n' { // all of the last record but its newline
			lines, onBorder = lines+1, true
		}
		records, err := Read(path)
		if onBorder && err != nil || !onBorder && !errors.Is(err, ErrTorn) {
			t.Fatalf("%d of %d bytes: %v", size, len(whole), err)
		}
		if got := len(dataOf(t, records)); got != max(lines-1, 0) {
			t.Fatalf("%d of %d bytes: %d records, want %d", size, len(whole), got, lines-1)
		}
		appendTo(t, path, "more")
		records, err = Read(path)
		if data := dataOf(t, records); err != nil || len(data) != max(lines-1, 0)+1 || data[len(data)-1] != `"more"` {
			t.Fatalf("%d of %d bytes, after another record: %q, %v", size, len(whole), data, err)
		}
	}
}

func TestEveryChangedByteIsFound(t *testing.T) {
	path := write(t, step{"mig-1", "planned", ""}, step{"mig-1", "preparing", ""})
	whole := readFile(t, path)
	for at := range whole {
		for _, to := range []byte{whole[at] ^ 1, whole[at] ^ 0x20, whole[at] ^ 0x80, '\n', 0} {
			if to == whole[at] {
				continue
			}
			changed := bytes.Clone(whole)
			changed[at] = to
			c, err := decode("journal", changed)
			if err == nil || errors.Is(err, ErrTorn) || c.records != nil {
				t.Fatalf("byte %d, %q made %q: %d records, %v", at, whole[at], to, len(c.records), err)
			}
		}
	}
}

func TestCorruptionIsNamed(t *testing.T) {
	path := write(t, step{"mig-1", "planned", ""}, step{"mig-1", "preparing", ""}, step{"mig-1", "prepared", ""})
	lines := bytes.SplitAfter(readFile(t, path), []byte("\n"))
	at := func(n int) string { // the place of line n
		return fmt.Sprintf("line %d at offset %d", n, len(bytes.Join(lines[:n-1], nil)))
	}
	foreign := func(data string) []byte { return appendLine(nil, 0, time.Now(), []byte(data)) }
	tricky := appendLine(nil, 1, time.Now(), []byte(`{"a":1,"crc32c":"00000000"}`))
	for _, c := range []struct {
		name  string
		lines [][]byte
		kind  vmstate.Kind
		words []string
	}{
		{"a line lost", [][]byte{lines[0], lines[2], lines[3]}, vmstate.Host, []string{path, at(2), "number 2 and should have 1"}},
		{"a line doubled", [][]byte{lines[0], lines[1], lines[1], lines[2]}, vmstate.Host, []string{at(3), "number 1 and should have 2"}},
		{"lines exchanged", [][]byte{lines[0], lines[2], lines[1], lines[3]}, vmstate.Host, []string{at(2)}},
		{"the first line lost", lines[1:], vmstate.Host, []string{"line 1 at offset 0"}},
		{"an empty line", [][]byte{lines[0], []byte("\n"), lines[1]}, vmstate.Host, []string{at(2), "checksum"}},
		{"half a line in the middle", [][]byte{lines[0], lines[1][:20], lines[2], lines[3]}, vmstate.Host, []string{at(2), "checksum"}},
		{"a newline lost in the middle", [][]byte{lines[0], bytes.TrimSpace(lines[1]), lines[2], lines[3]}, vmstate.Host, []string{at(2)}},
		{"a newline lost before half a line", [][]byte{lines[0], bytes.TrimSpace(lines[1]), lines[2][:9]}, vmstate.Host, []string{at(2), "newline"}},
		{"a newline lost behind a record that looks like two", [][]byte{lines[0], bytes.TrimSpace(tricky), lines[2][:9]}, vmstate.Host, []string{at(2), "newline"}},
		{"something else altogether", [][]byte{[]byte("hello\n")}, vmstate.Host, []string{"line 1 at offset 0"}},
		{"another format", [][]byte{foreign(`{"format":"other","level":1}`)}, vmstate.Host, []string{"qlive-journal"}},
		{"no JSON", [][]byte{foreign(`{"format`)}, vmstate.Host, []string{"no record"}},
		{"a later level", [][]byte{foreign(`{"format":"qlive-journal","level":2}`)}, vmstate.Unsupported, []string{path, "level 2", "up to 1"}},
		{"no level", [][]byte{foreign(`{"format":"qlive-journal"}`)}, vmstate.Unsupported, []string{"level 0"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			text := bytes.Join(c.lines, nil)
			if err := os.WriteFile(path, text, 0o600); err != nil {
				t.Fatal(err)
			}
			records, err := Read(path)
			checkKind(t, err, c.kind, c.words...)
			if records != nil {
				t.Errorf("%d records all the same", len(records))
			}
			_, err = Open(path)
			checkKind(t, err, c.kind, c.words...)
			if !bytes.Equal(readFile(t, path), text) {
				t.Error("opening changed the file")
			}
		})
	}
}

func TestOneWriter(t *testing.T) {
	path := write(t)
	j, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	_, err = Open(path)
	checkKind(t, err, vmstate.Busy, path)
	if err := errors.Join(j.Append(1), j.Close(), j.Close()); err != nil {
		t.Error(err)
	}
	if err := j.Append(2); !errors.Is(err, os.ErrClosed) {
		t.Errorf("appended to a closed journal: %v", err)
	}
	appendTo(t, path, 2)
}

func TestAppendRefusesWhatIsNoJSON(t *testing.T) {
	j, err := Open(write(t))
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	checkKind(t, j.Append(func() {}), vmstate.Internal, "func()")
	if err := j.Append(1); err != nil {
		t.Error(err)
	}
}

func TestManyWritersAndAReader(t *testing.T) {
	path := write(t)
	j, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	const writers, each = 4, 200
	var writing, reading sync.WaitGroup
	done := make(chan struct{})
	reading.Go(func() {
		for last := 0; ; {
			records, err := Read(path)
			if err != nil && !errors.Is(err, ErrTorn) || len(records) < last {
				t.Errorf("%d records after %d: %v", len(records), last, err)
				return
			}
			last = len(records)
			select {
			case <-done:
				return
			default:
			}
		}
	})
	for w := range writers {
		writing.Go(func() {
			for i := range each {
				if err := j.Append([]int{w, i}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	writing.Wait()
	close(done)
	reading.Wait()
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	records, err := Read(path)
	if err != nil || len(dataOf(t, records)) != writers*each {
		t.Fatalf("%d records, %v", len(records), err)
	}
	next := [writers]int{} // each writer's records are in its own order
	for _, r := range records {
		var wi [2]int
		if err := json.Unmarshal(r.Data, &wi); err != nil || wi[1] != next[wi[0]] {
			t.Fatalf("record %s, %v; want number %d of that writer", r.Data, err, next[wi[0]])
		}
		next[wi[0]]++
	}
}

func TestFullFileSystem(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("none", dir, "tmpfs", 0, "size=32k"); err != nil {
		t.Fatalf("cannot mount tmpfs (this test needs root): %v", err)
	}
	defer func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	}()
	ballast, path := filepath.Join(dir, "ballast"), filepath.Join(dir, "journal")
	if err := os.WriteFile(ballast, make([]byte, 20<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	j, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	accepted := 0
	for err == nil {
		if err = j.Append(strings.Repeat("x", 300)); err == nil {
			accepted++
		}
	}
	checkKind(t, err, vmstate.Exhausted, path, "of 32 KiB")
	if !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("%v, want ENOSPC", err)
	}
	if records, err := Read(path); err != nil || len(records) != accepted || accepted < 20 {
		t.Errorf("%d records (%v), %d were accepted", len(records), err, accepted)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if err := j.Append("room again"); err != nil {
		t.Fatal(err)
	}
	if records, err := Read(path); err != nil || len(dataOf(t, records)) != accepted+1 {
		t.Errorf("%d records (%v), want %d", len(records), err, accepted+1)
	}
}

// A writer killed at any moment leaves every record that it was told is kept.
func TestKilledWriter(t *testing.T) {
	if path := os.Getenv("QLIVE_TEST_JOURNAL"); path != "" {
		writeForever(path)
	}
	path := filepath.Join(t.TempDir(), "journal")
	kept := 0
	for round := range 8 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestKilledWriter$")
		cmd.Env = append(os.Environ(), "QLIVE_TEST_JOURNAL="+path)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		told := 0
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if told++; told == 50*(round+1) {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := cmd.Wait(); err == nil || told < 50*(round+1) {
			t.Fatalf("the writer ended by itself after %d records: %v", told, err)
		}
		records, err := Read(path)
		if err != nil && !errors.Is(err, ErrTorn) {
			t.Fatal(err)
		}
		if n := len(dataOf(t, records)); n < kept+told {
			t.Fatalf("%d records, and %d were accepted", n, kept+told)
		}
		kept = len(records)
	}
}

// writeForever appends records to path and tells of each once it is accepted.
func writeForever(path string) {
	j, err := Open(path)
	for err == nil {
		if err = j.Append(step{"mig-1", "switching", strings.Repeat("x", 500)}); err == nil {
			_, err = fmt.Println("kept")
		}
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(3)
}

func BenchmarkAppend(b *testing.B) {
	for name, dir := range map[string]string{"tmpfs": "/dev/shm", "temp": os.TempDir()} {
		b.Run(name, func(b *testing.B) {
			dir, err := os.MkdirTemp(dir, "qlive-journal-")
			if err != nil {
				b.Fatal(err)
			}
			defer os.RemoveAll(dir)
			j, err := Open(filepath.Join(dir, "journal"))
			if err != nil {
				b.Fatal(err)
			}
			defer j.Close()
			for b.Loop() {
				if err := j.Append(step{"mig-20261122-101500-1", "committing", "both sides have reported success"}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
