package daemon

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"qlive/internal/qemu/cmdline"
	"qlive/vmstate"
)

func TestPublicNames(t *testing.T) {
	dir := t.TempDir()
	at := func(generation, name string) string { return filepath.Join("/run/vm1", generation, name) }
	in := func(generation string) []cmdline.Name {
		return []cmdline.Name{
			{Public: filepath.Join(dir, "abs.sock"), Path: at(generation, "u0-abs.sock")},
			{Public: "rel.pid", Path: at(generation, "u1-rel.pid")}, // from the VM's working directory
		}
	}
	p, err := newPublicNames(dir, in("g0"))
	if err != nil {
		t.Fatal(err)
	}
	check := func(generation string) {
		t.Helper()
		for public, private := range map[string]string{"abs.sock": "u0-abs.sock", "rel.pid": "u1-rel.pid"} {
			if got, err := os.Readlink(filepath.Join(dir, public)); err != nil || got != at(generation, private) {
				t.Errorf("%s leads to %q (%v), want %s", public, got, err, at(generation, private))
			}
		}
	}
	check("g0")
	if err := p.move(dir, in("g1")); err != nil {
		t.Fatal(err)
	}
	check("g1")
	if err := os.Remove(filepath.Join(dir, "rel.pid")); err != nil { // somebody has tidied up: the next move puts it back
		t.Fatal(err)
	}
	if err := p.move(dir, in("g2")); err != nil {
		t.Fatal(err)
	}
	check("g2")
	p.remove()
	p.remove()
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("%v are left", left)
	}
}

func TestPublicNamesRefused(t *testing.T) {
	for _, tt := range []struct {
		name string
		put  func(t *testing.T, path string)
		kind vmstate.Kind // empty: taken over
	}{
		{"a file", func(t *testing.T, path string) { write(t, path) }, vmstate.Conflict},
		{"a folder", func(t *testing.T, path string) { must(t, os.Mkdir(path, 0o700)) }, vmstate.Conflict},
		{"a link to something", func(t *testing.T, path string) { write(t, path+".there"); must(t, os.Symlink(path+".there", path)) }, vmstate.Conflict},
		{"a link to nothing, as a killed daemon leaves", func(t *testing.T, path string) { must(t, os.Symlink(path+".gone", path)) }, ""},
		{"a socket that answers", func(t *testing.T, path string) { listen(t, path) }, vmstate.Conflict},
		{"a dead socket, as a killed QEMU leaves", func(t *testing.T, path string) {
			l := listen(t, path)
			l.SetUnlinkOnClose(false)
			must(t, l.Close())
		}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "name")
			tt.put(t, path)
			before, err := os.Lstat(path)
			must(t, err)
			p, err := newPublicNames(dir, []cmdline.Name{{Public: "first", Path: "/g0/first"}, {Public: "name", Path: "/g0/name"}})
			if tt.kind == "" {
				if to, _ := os.Readlink(path); err != nil || to != "/g0/name" {
					t.Errorf("it leads to %q, %v", to, err)
				}
				p.remove()
				return
			}
			if vmstate.KindOf(err) != tt.kind || !strings.Contains(err.Error(), path) || vmstate.ProblemOf(err).Remedy == "" {
				t.Errorf("got %v: %+v", err, vmstate.ProblemOf(err))
			}
			if now, err := os.Lstat(path); err != nil || !os.SameFile(before, now) {
				t.Errorf("what was there has been touched: %v", err)
			}
			if _, err := os.Lstat(filepath.Join(dir, "first")); err == nil {
				t.Error("the link made before is left")
			}
		})
	}
	t.Run("no such folder", func(t *testing.T) {
		_, err := newPublicNames(t.TempDir(), []cmdline.Name{{Public: "no/such/folder", Path: "/g0/x"}})
		if vmstate.KindOf(err) != vmstate.Host || vmstate.ProblemOf(err).Remedy == "" {
			t.Errorf("got %v", err)
		}
	})
}

// Another's link at the end is another's.
func TestPublicNamesKeepsOthers(t *testing.T) {
	dir := t.TempDir()
	p, err := newPublicNames(dir, []cmdline.Name{{Public: "a", Path: "/g0/a"}})
	must(t, err)
	path := filepath.Join(dir, "a")
	must(t, os.Remove(path))
	must(t, os.Symlink("/elsewhere", path))
	p.remove()
	if to, err := os.Readlink(path); err != nil || to != "/elsewhere" {
		t.Errorf("it leads to %q, %v", to, err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, path string) {
	t.Helper()
	must(t, os.WriteFile(path, []byte("something\n"), 0o600))
}

func listen(t *testing.T, path string) *net.UnixListener {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	must(t, err)
	t.Cleanup(func() { l.Close() })
	return l
}
