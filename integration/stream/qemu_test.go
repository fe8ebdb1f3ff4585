package stream_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"qlive/integration/env"
)

const ramBytes = 64 << 20

// ram is guest memory that belongs to the test.
func ram(t *testing.T, size int64) *os.File {
	t.Helper()
	fd, err := unix.MemfdCreate("ram", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "ram")
	t.Cleanup(func() { f.Close() })
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	return f
}

// qemu is a process with its monitor.
type qemu struct {
	*monitor
	version string
	dir     string
	cmd     *exec.Cmd
	exited  chan struct{} // closed once the process has been waited for
	stderr  string        // path
}

// start runs a QEMU of the version; the memory is its descriptor 3.
func start(t *testing.T, version string, memory *os.File, args ...string) *qemu {
	t.Helper()
	found, err := env.Locate()
	path := found.QEMU(version)
	if path == "" {
		t.Fatalf("no QEMU %s: %v", version, err)
	}
	q := &qemu{version: version, dir: t.TempDir(), exited: make(chan struct{})}
	q.stderr = filepath.Join(q.dir, "stderr")
	socket := filepath.Join(q.dir, "qmp")
	q.cmd = exec.Command(path, append([]string{
		"-accel", "tcg", "-display", "none", "-nodefaults", "-no-user-config",
		"-qmp", "unix:" + socket + ",server=on,wait=off",
		"-chardev", "file,id=firmware,path=" + q.firmwareLog(), "-device", "isa-debugcon,iobase=0x402,chardev=firmware",
	}, args...)...)
	q.cmd.Dir = q.dir // for the files that its arguments name
	if memory != nil {
		q.cmd.ExtraFiles = []*os.File{memory}
	}
	if q.cmd.Stderr, err = os.Create(q.stderr); err != nil {
		t.Fatal(err)
	}
	if err := q.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		q.cmd.Wait()
		close(q.exited)
	}()
	t.Cleanup(func() {
		q.kill()
		if text := q.errors(); t.Failed() && text != "" {
			t.Logf("QEMU %s wrote:\n%s", version, text)
		}
	})
	q.monitor = dialMonitor(t, socket, q.exited)
	return q
}

// kill ends the process and waits until it is gone.
func (q *qemu) kill() {
	q.cmd.Process.Kill()
	<-q.exited
}

// died is an error once the process is gone.
func (q *qemu) died() error {
	select {
	case <-q.exited:
		return fmt.Errorf("QEMU %s is gone: %s", q.version, q.errors())
	default:
		return nil
	}
}

func (q *qemu) errors() string {
	text, _ := os.ReadFile(q.stderr)
	return string(text)
}

func (q *qemu) firmwareLog() string { return filepath.Join(q.dir, "firmware") }

// says waits until a file that the guest writes to has the text n times, and returns all of it.
func (q *qemu) says(t *testing.T, path, text string, n int) string {
	t.Helper()
	var said []byte
	waitFor(t, 90*time.Second, func() error {
		if err := q.died(); err != nil {
			t.Fatal(err)
		}
		said, _ = os.ReadFile(path)
		if bytes.Count(said, []byte(text)) >= n {
			return nil
		}
		return fmt.Errorf("firmware of QEMU %s has got to: %q", q.version, said[max(0, len(said)-80):])
	})
	return string(said)
}

// machine is the name of the machine's class.
func (q *qemu) machine() string {
	q.t.Helper()
	var name string
	q.do("qom-get", map[string]any{"path": "/machine", "property": "type"}, &name)
	return strings.TrimSuffix(name, "-machine")
}

// enable switches migration capabilities on.
func (q *qemu) enable(names ...string) {
	q.t.Helper()
	on := map[string]bool{}
	for _, name := range names {
		on[name] = true
	}
	if err := q.MigrateSetCapabilities(q.t.Context(), on); err != nil {
		q.t.Fatal(err)
	}
}

// deviceState stops nothing: it asks for the device state of a guest that stands, and reads it.
func (q *qemu) deviceState(t *testing.T) []byte {
	t.Helper()
	path := filepath.Join(q.dir, "devices")
	q.do("xen-save-devices-state", map[string]any{"filename": path, "live": true}, nil)
	state, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return state
}

// migrateToFile lets QEMU write its own stream, with shared memory left out. The guest stands after it.
func (q *qemu) migrateToFile(t *testing.T) []byte {
	t.Helper()
	path := filepath.Join(q.dir, "migration")
	q.enable("x-ignore-shared")
	q.do("migrate", map[string]any{"uri": "exec:cat > " + path}, nil)
	waitFor(t, 30*time.Second, func() error {
		var s struct{ Status string }
		q.do("query-migrate", nil, &s)
		if s.Status == "failed" {
			t.Fatal("migration to a file failed")
		}
		if s.Status != "completed" {
			return errors.New("migration is " + s.Status)
		}
		return nil
	})
	state, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return state
}
