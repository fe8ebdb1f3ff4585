package qmp_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"qlive/integration/env"
	"qlive/internal/qmp"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds what must happen; a guest under TCG on a busy machine is slow.
const patience = 60 * time.Second

const ramBytes = 64 << 20

func within(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// eachVersion runs the test for every QEMU. One that is missing fails.
func eachVersion(t *testing.T, test func(t *testing.T, version string)) {
	for _, version := range env.Versions() {
		t.Run(version, func(t *testing.T) { test(t, version) })
	}
}

// qemu is a running binary and a connection to its monitor.
type qemu struct {
	*qmp.Client
	cmd    *exec.Cmd
	socket string
	exited chan struct{} // closed once the process has been waited for
	log    *recorder
}

// guestRAM is shared memory for -object memory-backend-file: descriptor 3 in a QEMU of start.
func guestRAM(t testing.TB) *os.File {
	t.Helper()
	fd, err := unix.MemfdCreate("ram", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	ram := os.NewFile(uintptr(fd), "ram")
	t.Cleanup(func() { _ = ram.Close() })
	if err := ram.Truncate(ramBytes); err != nil {
		t.Fatal(err)
	}
	return ram
}

// launch runs a QEMU with a small machine, its guest not started.
func launch(t testing.TB, version string, ram *os.File, args ...string) *qemu {
	t.Helper()
	found, err := env.Locate()
	binary := found.QEMU(version)
	if binary == "" {
		t.Fatalf("QEMU %s is missing: %v", version, err)
	}
	dir, err := os.MkdirTemp("", "qmp") // a socket's name must be short
	if err != nil {
		t.Fatal(err)
	}
	q := &qemu{socket: filepath.Join(dir, "qmp.sock"), exited: make(chan struct{}), log: &recorder{}}
	q.cmd = exec.Command(binary, append([]string{
		"-accel", "tcg", "-machine", "pc-q35-7.2,memory-backend=ram0", "-m", "64,slots=2,maxmem=1G", "-display", "none",
		"-object", fmt.Sprintf("memory-backend-file,id=ram0,size=%d,mem-path=/proc/self/fd/3,share=on", ramBytes),
		"-nodefaults", "-no-user-config", "-S", "-qmp", "unix:" + q.socket + ",server=on,wait=off",
	}, args...)...)
	q.cmd.ExtraFiles = []*os.File{ram}
	var words bytes.Buffer
	q.cmd.Stderr = &words
	if err := q.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = q.cmd.Wait() // how it ended is not at issue: most are killed
		close(q.exited)
	}()
	t.Cleanup(func() {
		_ = q.cmd.Process.Kill()
		<-q.exited
		_ = os.RemoveAll(dir)
		if t.Failed() {
			t.Logf("QEMU %s wrote:\n%s", version, words.String())
		}
	})
	return q
}

// start is launch, and a connection to the monitor.
func start(t testing.TB, version string, ram *os.File, args ...string) *qemu {
	t.Helper()
	q := launch(t, version, ram, args...)
	var transcript bytes.Buffer
	written := qmp.NewTranscript(&transcript)
	var err error
	q.Client, err = qmp.Dial(within(t, patience), q.socket, qmp.Options{
		Exited: q.exited, Observers: []qmp.Observer{q.log, written},
	})
	if err != nil {
		_ = written.Close()
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := q.Close(); err != nil {
			t.Error(err)
		}
		if err := written.Close(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("monitor of QEMU %s:\n%s", version, transcript.String())
		}
	})
	return q
}

// wait for a channel to be closed, or say what did not happen.
func wait(t *testing.T, done <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatalf("waited %s in vain for %s", patience, what)
	}
}

// socketPair is a channel for a migration.
func socketPair(t *testing.T) (a, b *os.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	a, b = os.NewFile(uintptr(fds[0]), "a"), os.NewFile(uintptr(fds[1]), "b")
	t.Cleanup(func() { _, _ = a.Close(), b.Close() })
	return a, b
}

// descriptors counts what a process has open.
func descriptors(t *testing.T, pid int) int {
	t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}
