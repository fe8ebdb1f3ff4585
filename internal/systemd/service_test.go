package systemd_test

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"qlive/internal/systemd"
	"qlive/internal/systemd/systemdtest"
	"qlive/vmstate"
)

// environment is one that a test makes up, and what is left of it.
func environment(vars map[string]string) systemd.Environment {
	return systemd.Environment{
		Getenv:   func(name string) string { return vars[name] },
		Unsetenv: func(name string) error { delete(vars, name); return nil },
		PID:      4711, FirstFD: 1 << 19, // no descriptor of this process
	}
}

// open is a service that tells m what it does.
func open(t *testing.T, m *systemdtest.Manager) *systemd.Service {
	t.Helper()
	s, err := systemd.Open(environment(map[string]string{"NOTIFY_SOCKET": m.Address}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func memfd(t *testing.T, name string) (*os.File, uint64) {
	t.Helper()
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), name)
	t.Cleanup(func() { f.Close() })
	return f, inode(t, f)
}

func inode(t *testing.T, f *os.File) uint64 {
	t.Helper()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return info.Sys().(*syscall.Stat_t).Ino
}

func names(files []systemd.File) []string {
	list := make([]string, len(files))
	for i, f := range files {
		list[i] = f.Name
	}
	return list
}

// Messages arrive line by line as sd_notify(3) has them, at a path and at an abstract name.
func TestNotify(t *testing.T) {
	for name, address := range map[string]string{"path": "", "abstract": "@qlive-test-" + strings.ReplaceAll(t.TempDir(), "/", ".")} {
		t.Run(name, func(t *testing.T) {
			m := systemdtest.New(t, address)
			s := open(t, m)
			for _, c := range []struct {
				name   string
				states []systemd.State
				want   []string
			}{
				{"ready", []systemd.State{systemd.Ready, systemd.Status("serving 2 VMs")}, []string{"READY=1", "STATUS=serving 2 VMs"}},
				{"watchdog", []systemd.State{systemd.Watchdog}, []string{"WATCHDOG=1"}},
				{"more time", []systemd.State{systemd.ExtendTimeout(1500 * time.Millisecond)}, []string{"EXTEND_TIMEOUT_USEC=1500000"}},
				{"a status of lines", []systemd.State{systemd.Status("one\nREADY=1\r\n\x00two")}, []string{"STATUS=one READY=1 two"}},
				{"stopping", []systemd.State{systemd.Stopping}, []string{"STOPPING=1"}},
			} {
				if err := s.Notify(c.states...); err != nil {
					t.Fatal(err)
				}
				got := m.Await(t, c.want[0])
				if !slices.Equal(got.Lines, c.want) || got.Files != 0 || got.PID != os.Getpid() {
					t.Errorf("%s: %+v, want %q from %d", c.name, got, c.want, os.Getpid())
				}
			}
		})
	}
}

func TestReloading(t *testing.T) {
	m := systemdtest.New(t, "")
	s := open(t, m)
	state, err := systemd.Reloading()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Notify(state); err != nil {
		t.Fatal(err)
	}
	got := m.Await(t, "RELOADING=1")
	usec, err := time.ParseDuration(got.Value("MONOTONIC_USEC") + "us")
	var now unix.Timespec
	if clock := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); clock != nil {
		t.Fatal(clock)
	}
	if age := time.Duration(now.Nano()) - usec; err != nil || age < 0 || age > time.Minute {
		t.Errorf("%+v was %v ago (%v)", got, age, err)
	}
}

// The very files arrive, under their names; one that is sent twice is there once; one that is let go of is gone.
func TestStore(t *testing.T) {
	m := systemdtest.New(t, "")
	s := open(t, m)
	a, inodeA := memfd(t, "a")
	b, inodeB := memfd(t, "b")
	for _, stored := range []struct {
		name string
		file *os.File
	}{{"ram-vm1-pc.ram", a}, {"ram-vm1-/objects/m 0", b}, {"another name", a}} {
		if err := s.Store(stored.name, stored.file); err != nil {
			t.Fatal(err)
		}
		if got := m.Await(t, "FDSTORE=1"); !slices.Equal(got.Lines, []string{"FDSTORE=1", "FDNAME=" + stored.name, "FDPOLL=0"}) || got.Files != 1 {
			t.Errorf("%+v", got)
		}
	}
	stored := m.Stored()
	if !slices.Equal(names(stored), []string{"ram-vm1-/objects/m 0", "ram-vm1-pc.ram"}) || inode(t, stored[0].File) != inodeB || inode(t, stored[1].File) != inodeA {
		t.Fatalf("stored: %v", names(stored))
	}
	if err := s.Forget("ram-vm1-pc.ram"); err != nil {
		t.Fatal(err)
	}
	m.Await(t, "FDSTOREREMOVE=1")
	if stored := m.Stored(); !slices.Equal(names(stored), []string{"ram-vm1-/objects/m 0"}) {
		t.Errorf("stored: %v", names(stored))
	}
	if _, err := a.Stat(); err != nil {
		t.Errorf("the sender's own descriptor: %v", err)
	}
}

func TestNames(t *testing.T) {
	m := systemdtest.New(t, "")
	s := open(t, m)
	f, _ := memfd(t, "f")
	for _, c := range []struct {
		name string
		ok   bool
	}{
		{"ram-vm1-pc.ram", true}, {strings.Repeat("x", 255), true}, {" ~", true},
		{"", false}, {strings.Repeat("x", 256), false}, {"a:b", false}, {"a\nb", false}, {"a\x7f", false}, {"ü", false}, {"a\x00", false},
	} {
		for what, err := range map[string]error{"check": systemd.CheckName(c.name), "store": s.Store(c.name, f), "forget": s.Forget(c.name)} {
			if (err == nil) != c.ok || err != nil && vmstate.KindOf(err) != vmstate.Invalid {
				t.Errorf("%s %q: %v", what, c.name, err)
			}
		}
	}
}

// A process that no manager has started is none, and everything can be asked of it all the same.
func TestNoManager(t *testing.T) {
	s, err := systemd.Open(environment(map[string]string{"PATH": "/bin"}))
	if s != nil || err != nil {
		t.Fatalf("%v, %v", s, err)
	}
	f, _ := memfd(t, "f")
	for what, err := range map[string]error{"notify": s.Notify(systemd.Ready), "store": s.Store("a", f), "forget": s.Forget("a"), "close": s.Close()} {
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	if s.Notifies() || s.WatchdogInterval() != 0 || s.StoreSize() != 0 || s.Take(func(systemd.File) bool { return true }) != nil {
		t.Error("it has something")
	}
}

// A manager that is gone, or does not read, is an error in good time, and says so.
func TestManagerThatDoesNotListen(t *testing.T) {
	t.Parallel() // it waits for a limit
	t.Run("gone", func(t *testing.T) {
		s, err := systemd.Open(environment(map[string]string{"NOTIFY_SOCKET": t.TempDir() + "/no"}))
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if err := s.Notify(systemd.Ready); vmstate.KindOf(err) != vmstate.Host {
			t.Error(err)
		}
	})
	t.Run("hung", func(t *testing.T) {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		address := "@qlive-test-hung-" + strings.ReplaceAll(t.TempDir(), "/", ".")
		if err := unix.Bind(fd, &unix.SockaddrUnix{Name: address}); err != nil {
			t.Fatal(err)
		}
		s, err := systemd.Open(environment(map[string]string{"NOTIFY_SOCKET": address}))
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		for range 100_000 { // until nothing more fits
			if err = s.Notify(systemd.Watchdog); err != nil {
				break
			}
		}
		if vmstate.KindOf(err) != vmstate.Timeout {
			t.Error(err)
		}
	})
}

func TestWrongEnvironment(t *testing.T) {
	for _, c := range []struct {
		name string
		vars map[string]string
		kind vmstate.Kind
	}{
		{"no unix socket", map[string]string{"NOTIFY_SOCKET": "vsock:2:1234"}, vmstate.Unsupported},
		{"a relative path", map[string]string{"NOTIFY_SOCKET": "run/notify"}, vmstate.Unsupported},
		{"a nameless socket", map[string]string{"NOTIFY_SOCKET": "@"}, vmstate.Unsupported},
		{"a path too long", map[string]string{"NOTIFY_SOCKET": "/" + strings.Repeat("x", 107)}, vmstate.Invalid},
		{"a name too long", map[string]string{"NOTIFY_SOCKET": "@" + strings.Repeat("x", 108)}, vmstate.Invalid},
		{"a watchdog that is no number", map[string]string{"WATCHDOG_USEC": "soon"}, vmstate.Invalid},
		{"a watchdog of nothing", map[string]string{"WATCHDOG_USEC": "0"}, vmstate.Invalid},
		{"a watchdog past time", map[string]string{"WATCHDOG_USEC": "9223372036854775807"}, vmstate.Invalid},
		{"no number of a process", map[string]string{"LISTEN_PID": "me", "LISTEN_FDS": "1"}, vmstate.Invalid},
		{"a negative count", map[string]string{"LISTEN_PID": "4711", "LISTEN_FDS": "-1"}, vmstate.Invalid},
		{"fewer names than descriptors", map[string]string{"LISTEN_PID": "4711", "LISTEN_FDS": "2", "LISTEN_FDNAMES": "a"}, vmstate.Invalid},
		{"more names than descriptors", map[string]string{"LISTEN_PID": "4711", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "a:b"}, vmstate.Invalid},
		{"descriptors that are not there", map[string]string{"LISTEN_PID": "4711", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "a"}, vmstate.Invalid},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, err := systemd.Open(environment(c.vars))
			if s != nil || vmstate.KindOf(err) != c.kind || !strings.HasPrefix(err.Error(), "cannot ") {
				t.Errorf("%v, %v", s, err)
			}
			if len(c.vars) != 0 {
				t.Errorf("left: %v", c.vars)
			}
		})
	}
}

// What is meant for another process is none of ours.
func TestMeantForAnother(t *testing.T) {
	s, err := systemd.Open(environment(map[string]string{
		"LISTEN_PID": "4712", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "a", "WATCHDOG_PID": "4712", "WATCHDOG_USEC": "1000000",
	}))
	if s != nil || err != nil {
		t.Errorf("%v, %v", s, err)
	}
	s, err = systemd.Open(environment(map[string]string{"WATCHDOG_USEC": "1000000"}))
	if err != nil || s.WatchdogInterval() != time.Second {
		t.Errorf("a watchdog for whoever reads it: %v, %v", s.WatchdogInterval(), err)
	}
}

// A service that is started anew gets what it has stored, under the same names, closed on exec, and hands none of it on by its environment.
func TestStartedByManager(t *testing.T) {
	m := systemdtest.New(t, "")
	s := open(t, m)
	ram, ramInode := memfd(t, "ram")
	if err := s.Store("ram-vm1-pc.ram", ram); err != nil {
		t.Fatal(err)
	}
	m.Await(t, "FDSTORE=1")
	socket, socketInode := memfd(t, "stands for a socket")

	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), asService+"=1")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	m.Prepare(cmd, systemdtest.Unit{Watchdog: 30 * time.Second, Sockets: []systemd.File{{Name: "qlive.sock", File: socket}}, StoreMax: 256})
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v: %s", err, &stderr)
	}
	var got account
	if err := json.Unmarshal(stdout.Bytes(), &got); err != nil {
		t.Fatalf("%v: %s", err, &stdout)
	}
	want := account{
		Watchdog: 30_000_000, Room: 256, Names: []string{"qlive.sock", "ram-vm1-pc.ram"}, Inodes: []uint64{socketInode, ramInode}, CloseOn: []bool{true, true},
	}
	if a, b := mustJSON(t, got), mustJSON(t, want); a != b {
		t.Errorf("it was given %s, want %s", a, b)
	}
	if ready := m.Await(t, "READY=1"); ready.PID != cmd.Process.Pid {
		t.Errorf("%+v is not from %d", ready, cmd.Process.Pid)
	}
	if stored := m.Stored(); !slices.Equal(names(stored), []string{"qlive.sock", "ram-vm1-pc.ram"}) {
		t.Errorf("stored: %v", names(stored))
	}
}

func mustJSON(t *testing.T, v any) string {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// FuzzOpen feeds environments to the parser: it never panics, never leaves a variable, and takes no descriptor that is not there.
func FuzzOpen(f *testing.F) {
	f.Add("@notify", "30000000", "4711", "4711", "2", "a:b")
	f.Add("/run/systemd/notify", "", "", "", "", "")
	f.Add("vsock:1:2", "x", "-1", "0", "1048577", ":::")
	f.Fuzz(func(t *testing.T, notify, usec, watchdogPID, pid, count, fdnames string) {
		vars := map[string]string{
			"NOTIFY_SOCKET": notify, "WATCHDOG_USEC": usec, "WATCHDOG_PID": watchdogPID, "LISTEN_PID": pid, "LISTEN_FDS": count, "LISTEN_FDNAMES": fdnames,
		}
		env := environment(vars)
		s, err := systemd.Open(env)
		for name, value := range vars {
			if value != "" {
				t.Errorf("%s=%q is left", name, value)
			}
		}
		if files := s.Take(func(systemd.File) bool { return true }); len(files) > 0 {
			t.Errorf("descriptors out of nothing: %v", names(files))
		}
		if err != nil && vmstate.KindOf(err) == vmstate.Internal {
			t.Error(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}
