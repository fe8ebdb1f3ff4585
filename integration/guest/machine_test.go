package guest_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"qlive/integration/guest"

	"golang.org/x/sys/unix"
)

// patience is how long a test waits for anything: emulated guests on a busy machine are slow.
const patience = 4 * time.Minute

// spec says what machine to start.
type spec struct {
	qemu    string // version; empty for 7.2.22
	accel   string // empty for tcg
	machine string // empty for pc-q35-7.2
	memMiB  int    // 0 for 256
	cpus    int    // 0 for 1
	kernel  *guest.Params
	modules []guest.Module
	args    []string
}

// machine is a running QEMU whose RAM, console and monitor the test holds.
type machine struct {
	t       *testing.T
	ctx     context.Context
	console *guest.Console
	serial  net.Conn // the console, if nobody reads it by a guest.Console
	ram     []byte
	monitor net.Conn
	ended   chan error // gets QEMU's exit, once
	stderr  bytes.Buffer
}

// start starts a machine; it is gone when the test ends.
func start(t *testing.T, s spec) *machine {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	m := &machine{t: t, ctx: ctx, ended: make(chan error, 1)}
	var files []*os.File // QEMU's, from descriptor 3 on
	give := func(f *os.File) string {
		files = append(files, f)
		return strconv.Itoa(2 + len(files))
	}
	mem := max(s.memMiB, 256)
	size := int64(mem) << 20
	serial, serialEnd := pair(t)
	monitor, monitorEnd := pair(t)
	m.serial, m.monitor = serial, monitor
	args := []string{
		"-accel", either(s.accel, "tcg"), "-cpu", "qemu64", "-smp", strconv.Itoa(max(s.cpus, 1)), "-m", strconv.Itoa(mem),
		"-machine", either(s.machine, "pc-q35-7.2") + ",memory-backend=ram0",
		"-object", fmt.Sprintf("memory-backend-file,id=ram0,size=%d,share=on,mem-path=/proc/self/fd/%s", size, give(m.makeRAM(size))),
		"-no-user-config", "-nodefaults", "-display", "none", "-vga", "none",
		"-chardev", "socket,id=serial,fd=" + give(serialEnd), "-serial", "chardev:serial",
		"-chardev", "socket,id=monitor,fd=" + give(monitorEnd), "-mon", "chardev=monitor",
	}
	if s.kernel != nil {
		args = append(args, "-kernel", cached(t, "kernel/vmlinuz"), "-initrd", initrd(t, s.modules), "-append", guest.Append(*s.kernel))
		m.console = guest.NewConsole(nil)
		m.console.Attach(serial)
	}
	cmd := exec.Command(cached(t, filepath.Join("qemu", either(s.qemu, "7.2.22"), "qemu-system-x86_64")), append(args, s.args...)...)
	cmd.ExtraFiles, cmd.Stderr = files, &m.stderr
	if err := cmd.Start(); err != nil {
		t.Fatalf("cannot start QEMU: %v", err)
	}
	for _, f := range files {
		_ = f.Close()
	}
	waited := make(chan struct{})
	go func() {
		m.ended <- cmd.Wait()
		close(waited)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-waited
		if m.console != nil {
			_ = m.console.Close()
		}
		_, _ = serial.Close(), monitor.Close()
		if t.Failed() && m.stderr.Len() > 0 {
			t.Logf("QEMU said:\n%s", m.stderr.String())
		}
	})
	return m
}

// boot starts a machine with the test guest and waits until it is up.
func boot(t *testing.T, s spec) *machine {
	t.Helper()
	if s.kernel == nil {
		s.kernel = &guest.Params{}
	}
	m := start(t, s)
	if _, err := m.console.AwaitBoot(m.ctx, 1); err != nil {
		t.Fatal(err)
	}
	return m
}

// makeRAM makes the guest's RAM as a memfd, maps it into the test and returns it.
func (m *machine) makeRAM(size int64) *os.File {
	m.t.Helper()
	fd, err := unix.MemfdCreate("ram0", unix.MFD_CLOEXEC)
	if err != nil {
		m.t.Fatal(err)
	}
	if err := unix.Ftruncate(fd, size); err != nil {
		m.t.Fatal(err)
	}
	if m.ram, err = unix.Mmap(fd, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { _ = unix.Munmap(m.ram) })
	return os.NewFile(uintptr(fd), "ram0")
}

// hmp sends a line to QEMU's human monitor.
func (m *machine) hmp(command string) {
	m.t.Helper()
	write(m.t, m.monitor, command+"\n")
}

// awaitExit waits until QEMU has ended by itself, well.
func (m *machine) awaitExit() {
	m.t.Helper()
	select {
	case err := <-m.ended:
		if err != nil {
			m.t.Errorf("QEMU ended with %v", err)
		}
	case <-m.ctx.Done():
		m.t.Error("QEMU has not ended")
	}
}

// pair returns two ends of a stream: the test's, and one to be given away.
func pair(t *testing.T) (net.Conn, *os.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	near := os.NewFile(uintptr(fds[0]), "near")
	defer func() { _ = near.Close() }()
	conn, err := net.FileConn(near)
	if err != nil {
		t.Fatal(err)
	}
	return conn, os.NewFile(uintptr(fds[1]), "far")
}

// initrd builds the guest.
func initrd(t *testing.T, modules []guest.Module) string {
	t.Helper()
	path, err := guest.Build(t.Context(), cacheDir(t), modules...)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// cached returns the path of a part that the set-up provides. That it is missing fails the test.
func cached(t *testing.T, name string) string {
	t.Helper()
	path := filepath.Join(cacheDir(t), name)
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v: run scripts/setup test", err)
	}
	return path
}

// cacheDir is QLIVE_CACHE, else .cache beside go.mod.
func cacheDir(t *testing.T) string {
	t.Helper()
	if dir := os.Getenv("QLIVE_CACHE"); dir != "" {
		return dir
	}
	dir, err := os.Getwd()
	for ; err == nil; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return filepath.Join(dir, ".cache")
		}
		if dir == filepath.Dir(dir) {
			err = errors.New("there is no go.mod above")
		}
	}
	t.Fatalf("cannot find the cache: %v; name it in QLIVE_CACHE", err)
	return ""
}

func either(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

func writeFile(t *testing.T, path, data string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(data), 0o644); err != nil {
		t.Fatal(err)
	}
}
