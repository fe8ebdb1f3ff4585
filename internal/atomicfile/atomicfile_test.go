package atomicfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// recorder is the system; it notes each call, and at one of them fails or stands for the host's sudden death.
type recorder struct {
	calls  []string
	failAt int
	err    error
	dies   bool
}

// death is what a call panics with when the host dies at it.
type death struct{}

func (r *recorder) call(name string) error {
	r.calls = append(r.calls, name)
	if len(r.calls) != r.failAt {
		return nil
	}
	if r.dies {
		panic(death{})
	}
	return r.err
}

func (r *recorder) CreateTemp(dir, pattern string) (File, error) {
	if err := r.call("create"); err != nil {
		return nil, err
	}
	f, err := system{}.CreateTemp(dir, pattern)
	return recordedFile{f, r}, err
}

func (r *recorder) Rename(from, to string) error {
	if err := r.call("rename"); err != nil {
		return err
	}
	return system{}.Rename(from, to)
}

func (r *recorder) Remove(path string) error { return system{}.Remove(path) }

func (r *recorder) SyncDir(dir string) error {
	if err := r.call("syncdir"); err != nil {
		return err
	}
	return system{}.SyncDir(dir)
}

type recordedFile struct {
	File
	r *recorder
}

func (f recordedFile) Write(b []byte) (int, error) {
	if err := f.r.call("write"); err != nil {
		n, _ := f.File.Write(b[:len(b)/2])
		return n, err
	}
	return f.File.Write(b)
}

func (f recordedFile) Chmod(mode fs.FileMode) error {
	return errors.Join(f.r.call("chmod"), f.File.Chmod(mode))
}
func (f recordedFile) Sync() error  { return errors.Join(f.r.call("sync"), f.File.Sync()) }
func (f recordedFile) Close() error { return errors.Join(f.r.call("close"), f.File.Close()) }

func content(t testing.TB, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func names(t testing.TB, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	list := []string{}
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}

func TestWrite(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "state.json")
	for _, c := range []struct {
		text string
		mode fs.FileMode
	}{{"one", 0o644}, {"", 0o600}, {strings.Repeat("two ", 100000), 0o640}} {
		if err := Write(path, []byte(c.text), c.mode); err != nil {
			t.Fatal(err)
		}
		if got := content(t, path); got != c.text {
			t.Errorf("%d bytes, want %d", len(got), len(c.text))
		}
		if info, err := os.Stat(path); err != nil || info.Mode() != c.mode {
			t.Errorf("mode %v (%v), want %v", info.Mode(), err, c.mode)
		}
	}
	if got := names(t, dir); !slices.Equal(got, []string{"state.json"}) {
		t.Errorf("the folder has %q", got)
	}
}

func TestWriteHere(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := Write("state", []byte("x"), 0o600); err != nil || content(t, "state") != "x" {
		t.Error(err)
	}
}

func TestSteps(t *testing.T) {
	r := &recorder{}
	if err := WriteOn(r, filepath.Join(t.TempDir(), "f"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if want := []string{"create", "write", "chmod", "sync", "close", "rename", "syncdir"}; !slices.Equal(r.calls, want) {
		t.Errorf("steps %q, want %q", r.calls, want)
	}
}

func TestEveryStepFailsAndEveryStepIsTheLast(t *testing.T) {
	refused := errors.New("refused by the test")
	for at := 1; at <= 7; at++ {
		for _, dies := range []bool{false, true} {
			t.Run(fmt.Sprintf("step %d, dies %t", at, dies), func(t *testing.T) {
				dir := t.TempDir()
				path := filepath.Join(dir, "state")
				if err := Write(path, []byte("old"), 0o600); err != nil {
					t.Fatal(err)
				}
				r := &recorder{failAt: at, err: refused, dies: dies}
				err := writeUntilDeath(r, path)
				if !dies && (!errors.Is(err, refused) || !strings.Contains(err.Error(), path)) {
					t.Errorf("error %v, want one for %v that names %s", err, refused, path)
				}
				want := "old"
				if r.calls[len(r.calls)-1] == "syncdir" {
					want = "new, and longer"
				}
				if got := content(t, path); got != want {
					t.Errorf("%s has %q, want %q", path, got, want)
				}
				if dies {
					if err := Sweep(dir); err != nil {
						t.Error(err)
					}
				}
				if got := names(t, dir); !slices.Equal(got, []string{"state"}) {
					t.Errorf("the folder has %q", got)
				}
			})
		}
	}
}

func writeUntilDeath(r *recorder, path string) (err error) {
	defer func() {
		if p := recover(); p != nil && p != any(death{}) {
			panic(p)
		}
	}()
	return WriteOn(r, path, []byte("new, and longer"), 0o600)
}

func TestNoFolder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "none", "f")
	if err := Write(path, nil, 0o600); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v, want that there is no folder", err)
	}
	if err := Sweep(filepath.Dir(path)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v, want that there is no folder", err)
	}
}

func TestSweepTakesNothingElse(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{".a.1.tmp", "b.tmp", ".c", "d"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, ".e.tmp"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := Sweep(dir); err != nil {
		t.Fatal(err)
	}
	if got := names(t, dir); !slices.Equal(got, []string{".c", ".e.tmp", "b.tmp", "d"}) {
		t.Errorf("left are %q", got)
	}
}

// After any history of writings, failures and deaths a file has the last content that was accepted, or one that a
// failed writing may have left.
func TestHistories(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "state")
	rapid.Check(t, func(t *rapid.T) {
		old := ""
		if err := Write(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		for range rapid.IntRange(1, 8).Draw(t, "writings") {
			text := rapid.String().Draw(t, "text")
			r := &recorder{failAt: rapid.IntRange(0, 7).Draw(t, "fails at"), err: errors.New("refused"), dies: rapid.Bool().Draw(t, "dies")}
			done := false
			func() {
				defer func() {
					if p := recover(); p != nil && p != any(death{}) {
						panic(p)
					}
				}()
				done = WriteOn(r, path, []byte(text), 0o600) == nil
			}()
			now, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			renamed := r.calls[len(r.calls)-1] == "syncdir"
			if got := string(now); done && got != text || !done && got != old && !(renamed && got == text) {
				t.Fatalf("the file has %q; it had %q, and %q was written (%t)", got, old, text, done)
			}
			old = string(now)
		}
		if err := Sweep(dir); err != nil {
			t.Fatal(err)
		}
	})
}
