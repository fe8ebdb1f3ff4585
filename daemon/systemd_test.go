package daemon

import (
	"context"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"qlive/flip/memory"
	"qlive/internal/systemd"
	"qlive/internal/systemd/systemdtest"
	"qlive/restapi/client"
	"qlive/vmstate"
)

// firstFD is where a test puts descriptors that a manager passes on: above all that the test opens.
const firstFD = 600

// started is the service that a process would be that m starts with these files, each a descriptor of its own as after an exec.
func started(t *testing.T, m *systemdtest.Manager, vars map[string]string, files ...systemd.File) *systemd.Service {
	t.Helper()
	if vars == nil {
		vars = make(map[string]string)
	}
	vars["NOTIFY_SOCKET"] = m.Address
	var names []string
	for i, f := range files {
		must(t, unix.Dup3(int(f.Fd()), firstFD+i, unix.O_CLOEXEC))
		names = append(names, f.Name)
	}
	if len(files) > 0 {
		vars["LISTEN_PID"], vars["LISTEN_FDS"], vars["LISTEN_FDNAMES"] = "1", strconv.Itoa(len(files)), strings.Join(names, ":")
	}
	s, err := systemd.Open(systemd.Environment{
		Getenv:   func(name string) string { return vars[name] },
		Unsetenv: func(name string) error { delete(vars, name); return nil },
		PID:      1, FirstFD: firstFD,
	})
	must(t, err)
	t.Cleanup(func() { must(t, s.Close()) })
	return s
}

func ram(t *testing.T, vm string, blocks ...string) *memory.Set {
	t.Helper()
	var wants []memory.Want
	for _, b := range blocks {
		wants = append(wants, memory.Want{Name: b, SizeBytes: 4096})
	}
	set, err := memory.Create(vmstate.MemorySpec{}, vm, wants)
	must(t, err)
	t.Cleanup(func() { must(t, set.Close()) })
	return set
}

// inodes are those of files by their names.
func inodes(t *testing.T, files []systemd.File) map[string]uint64 {
	t.Helper()
	list := make(map[string]uint64)
	for _, f := range files {
		info, err := f.Stat()
		must(t, err)
		list[f.Name] = info.Sys().(*syscall.Stat_t).Ino
	}
	if len(list) != len(files) {
		t.Errorf("%d names for %d files", len(list), len(files))
	}
	return list
}

func same(t *testing.T, what string, got, want map[string]uint64) {
	t.Helper()
	if !maps.Equal(got, want) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

// sync waits until the manager has acted on everything that was sent before.
func syncWith(t *testing.T, m *systemdtest.Manager, s *systemd.Service) {
	t.Helper()
	mark := systemd.Status(fmt.Sprint("mark ", time.Now().UnixNano()))
	must(t, s.Notify(mark))
	m.Await(t, string(mark))
}

// RAM is stored under its VM's name, the very files, once, and let go of with the VM.
func TestCustodyKeeps(t *testing.T) {
	m := systemdtest.New(t, "")
	s := started(t, m, nil)
	c := newCustody(s, zerolog.Nop())
	one, two := ram(t, "vm1", "pc.ram", "/objects/dimm-1"), ram(t, "vm2", "pc.ram")
	all := map[string]uint64{
		"ram-vm1-pc.ram": one.Regions()[0].Inode(), "ram-vm1-/objects/dimm%2D1": one.Regions()[1].Inode(), "ram-vm2-pc.ram": two.Regions()[0].Inode(),
	}
	for range 2 {
		c.keep("vm1", one)
		c.keep("vm2", two)
		syncWith(t, m, s)
		same(t, "stored", inodes(t, m.Stored()), all)
	}
	other := ram(t, "vm1", "pc.ram") // the guest was started anew
	c.keep("vm1", other)
	syncWith(t, m, s)
	same(t, "stored of the new one", inodes(t, m.Stored()), map[string]uint64{"ram-vm1-pc.ram": other.Regions()[0].Inode(), "ram-vm2-pc.ram": two.Regions()[0].Inode()})
	c.release("vm1")
	c.release("never")
	syncWith(t, m, s)
	same(t, "left", inodes(t, m.Stored()), map[string]uint64{"ram-vm2-pc.ram": two.Regions()[0].Inode()})
}

// The next daemon is offered the very files, each once. What is claimed, and what is of a VM that is there, stays stored until the VM
// ends; the rest is let go of.
func TestCustodyOffers(t *testing.T) {
	m := systemdtest.New(t, "")
	s := started(t, m, nil)
	first := newCustody(s, zerolog.Nop())
	sets := map[string]*memory.Set{}
	for _, vm := range []string{"claimed", "known", "gone", "a-b", "anew"} {
		sets[vm] = ram(t, vm, "pc.ram")
		first.keep(vm, sets[vm])
	}
	syncWith(t, m, s)

	next := started(t, m, nil, m.Stored()...)
	c := newCustody(next, zerolog.Nop())
	f := c.offer("claimed", "pc.ram")
	if f == nil {
		t.Fatal("nothing is offered")
	}
	defer f.Close()
	if got, want := identify(f).inode, sets["claimed"].Regions()[0].Inode(); got != want {
		t.Errorf("offered is inode %d, want %d", got, want)
	}
	for _, none := range [][2]string{{"claimed", "pc.ram"}, {"claimed", "other"}, {"nobody", "pc.ram"}, {"a", "b-pc.ram"}} {
		if f := c.offer(none[0], none[1]); f != nil {
			t.Errorf("%v is offered %s", none, f.Name())
		}
	}
	anew := ram(t, "anew", "pc.ram") // its guest had ended, and is started again
	c.keep("anew", anew)
	c.settle(func(vm string) bool { return vm == "known" || vm == "claimed" || vm == "anew" })
	c.keep("claimed", sets["claimed"]) // the same inode: it stays as it is
	syncWith(t, m, next)
	same(t, "left", inodes(t, m.Stored()), map[string]uint64{
		"ram-claimed-pc.ram": sets["claimed"].Regions()[0].Inode(), "ram-known-pc.ram": sets["known"].Regions()[0].Inode(), "ram-anew-pc.ram": anew.Regions()[0].Inode(),
	})
	if len(c.received) != 0 {
		t.Errorf("unclaimed: %v", c.received)
	}
	for _, vm := range []string{"known", "claimed", "anew"} {
		c.release(vm)
	}
	syncWith(t, m, next)
	same(t, "left at the end", inodes(t, m.Stored()), map[string]uint64{})
}

// Of two files under one name neither is trusted.
func TestCustodyTwoOfOneName(t *testing.T) {
	m := systemdtest.New(t, "")
	a, b := ram(t, "vm1", "pc.ram").Files()[0], ram(t, "vm1", "pc.ram").Files()[0]
	s := started(t, m, nil, systemd.File{Name: "ram-vm1-pc.ram", File: a}, systemd.File{Name: "ram-vm1-pc.ram", File: b}, systemd.File{Name: "ram-vm1-pc.ram", File: a},
		systemd.File{Name: "ram-vm2-pc.ram", File: a}, systemd.File{Name: "ram-vm2-pc.ram", File: a}, systemd.File{Name: "not ours", File: b})
	c := newCustody(s, zerolog.Nop())
	if f := c.offer("vm1", "pc.ram"); f != nil {
		t.Errorf("%s is offered", f.Name())
	}
	f := c.offer("vm2", "pc.ram")
	if f == nil {
		t.Fatal("one file that is stored twice is not offered")
	}
	must(t, f.Close())
	if got := m.Await(t, "FDSTOREREMOVE=1").Value("FDNAME"); got != "ram-vm1-pc.ram" {
		t.Errorf("%s is let go of", got)
	}
}

// A store that is full takes no more, and the daemon knows.
func TestCustodyFull(t *testing.T) {
	m := systemdtest.New(t, "")
	s := started(t, m, map[string]string{"FDSTORE": "2"})
	var log strings.Builder
	c := newCustody(s, zerolog.New(&log))
	set := ram(t, "vm1", "a", "b", "c")
	c.keep("vm1", set)
	syncWith(t, m, s)
	if stored := m.Stored(); len(stored) != 2 || !strings.Contains(log.String(), "FileDescriptorStoreMax") || !strings.Contains(log.String(), `"region":"c"`) {
		t.Errorf("%d stored, log %s", len(stored), &log)
	}
}

// What is stored can be passed on: its names fit into one variable of a new process.
func TestCustodyNamesFit(t *testing.T) {
	m := systemdtest.New(t, "")
	s := started(t, m, nil)
	var log strings.Builder
	c := newCustody(s, zerolog.New(&log))
	for i := 0; !strings.Contains(log.String(), "RAM not stored"); i++ {
		name := ramName(fmt.Sprintf("vm%d", i), strings.Repeat("-", 255))
		if i > 1000 {
			t.Fatalf("%d names of %d bytes are stored", i, len(name))
		}
		c.noteLocked(fmt.Sprintf("vm%d", i), name, identity{})
		if i%50 == 0 {
			c.keep("last", ram(t, "last", "pc.ram"))
		}
	}
	_, bytes := c.sizeLocked()
	cmd := exec.Command("/bin/true")
	cmd.Env = []string{"LISTEN_FDNAMES=" + strings.Repeat("x", bytes)}
	must(t, cmd.Run())
}

func TestRAMName(t *testing.T) {
	for _, c := range []struct{ vm, region, want string }{
		{"vm1", "pc.ram", "ram-vm1-pc.ram"},
		{"web-1", "/objects/ram-node0", "ram-web-1-/objects/ram%2Dnode0"},
		{"vm1", "0000:00:02.0/vmem", "ram-vm1-0000%3A00%3A02.0/vmem"},
		{"vm1", "é\n", "ram-vm1-%C3%A9%0A"},
	} {
		if got := ramName(c.vm, c.region); got != c.want || vmOfRAM(got) != c.vm {
			t.Errorf("ramName(%q, %q) = %q of %q, want %q", c.vm, c.region, got, vmOfRAM(got), c.want)
		}
	}
	for _, name := range []string{"", "ram-", "ram-vm1", "socket-a-b"} {
		if vm := vmOfRAM(name); vm != "" {
			t.Errorf("%q is of %q", name, vm)
		}
	}
}

func TestRAMNamesAreTakenAndNeverMeet(t *testing.T) {
	vm := rapid.StringMatching(`[a-z0-9][a-z0-9._-]{0,62}`)
	region := rapid.OneOf(rapid.String(), rapid.StringMatching(`[a-z/:-]{1,4}`), rapid.StringMatching(`[a/]{180,255}`))
	rapid.Check(t, func(t *rapid.T) {
		vm1, vm2, region1, region2 := vm.Draw(t, "vm1"), vm.Draw(t, "vm2"), region.Draw(t, "region1"), region.Draw(t, "region2")
		a, b := ramName(vm1, region1), ramName(vm2, region2)
		if (a == b) != (vm1 == vm2 && region1 == region2) {
			t.Fatalf("%q and %q", a, b)
		}
		if err := systemd.CheckName(a); err != nil || vmOfRAM(a) != vm1 {
			t.Fatalf("%q: %v, of %q", a, err, vmOfRAM(a))
		}
	})
}

// supervised is an open daemon whose manager wants to hear of it ten times a second.
func supervised(t *testing.T, m *systemdtest.Manager, cfg Config) *Daemon {
	t.Helper()
	d := New(cfg, Options{Version: "test", Systemd: started(t, m, map[string]string{"WATCHDOG_USEC": "300000"})})
	must(t, d.Open(t.Context()))
	return d
}

// A daemon says that it starts, that it serves, that it is well, and that it stops.
func TestPulse(t *testing.T) {
	m := systemdtest.New(t, "")
	d := supervised(t, m, testConfig(t))
	start := m.Await(t, "EXTEND_TIMEOUT_USEC=30000000")
	if !strings.HasPrefix(start.Value("STATUS"), "starting: ") || start.Has("READY=1") {
		t.Errorf("%+v", start)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- d.Serve(ctx) }()
	m.Await(t, "READY=1")
	for range 3 {
		if beat := m.Await(t, "WATCHDOG=1"); beat.Value("EXTEND_TIMEOUT_USEC") != "" {
			t.Errorf("%+v", beat)
		}
	}
	cancel()
	if stop := m.Await(t, "STOPPING=1"); stop.Value("EXTEND_TIMEOUT_USEC") != "30000000" {
		t.Errorf("%+v", stop)
	}
	must(t, <-served)
	must(t, d.Close(t.Context()))
	if n := len(slices.DeleteFunc(m.Messages(), func(m systemdtest.Message) bool { return !m.Has("STOPPING=1") })); n != 1 {
		t.Errorf("it said %d times that it stops", n)
	}
	if _, err := os.Lstat(d.pulseFile()); !os.IsNotExist(err) {
		t.Errorf("the pulse's file is left: %v", err)
	}
}

// A daemon in which something is stuck is not well, whoever it is, and is again when that goes on. It is while it ends, too.
func TestPulseOfAStuckDaemon(t *testing.T) {
	for name, hold := range map[string]func(d *Daemon) (release func()){
		"table":    func(d *Daemon) func() { d.mu.Lock(); return d.mu.Unlock },
		"registry": func(d *Daemon) func() { d.registry.mu.Lock(); return d.registry.mu.Unlock },
		"hub":      func(d *Daemon) func() { d.hub.mu.Lock(); return d.hub.mu.Unlock },
		"run directory": func(d *Daemon) func() { // a file that takes nothing in
			must(t, unix.Mkfifo(d.pulseFile()+".new", 0o600))
			must(t, os.Rename(d.pulseFile()+".new", d.pulseFile()))
			return func() {
				reader, err := os.OpenFile(d.pulseFile(), os.O_RDWR, 0)
				must(t, err)
				t.Cleanup(func() { reader.Close() })
			}
		},
		"handoff": func(d *Daemon) func() {
			m := vmstate.Migration{ID: "mig-1", VM: "vm1", Phase: vmstate.Switching, StartedAt: time.Now(), Phases: []vmstate.PhaseTime{{Phase: vmstate.Switching, At: time.Now().Add(-time.Hour)}}}
			d.registry.putMigration(m)
			return func() {
				m.Phase = vmstate.RolledBack
				d.registry.putMigration(m)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := systemdtest.New(t, "")
			d := supervised(t, m, testConfig(t))
			d.pulse.ready(t.Context(), d.taken)
			m.Await(t, "READY=1")
			m.Await(t, "WATCHDOG=1")
			release := hold(d)
			m.AwaitSilence(t, "WATCHDOG=1", time.Second)
			if name == "handoff" {
				m.Await(t, "STATUS=cannot end switching of mig-1: it has kept vm1 standing for 1h0m0s")
			}
			beats := len(m.Messages())
			release()
			for range 2 {
				m.Await(t, "WATCHDOG=1")
			}
			if len(m.Messages()) <= beats {
				t.Error("it is not well again")
			}
			must(t, d.Close(t.Context()))
		})
	}
}

// A run directory that refuses a file makes the daemon say so, and no restart would help.
func TestPulseWithoutRoom(t *testing.T) {
	m := systemdtest.New(t, "")
	cfg := testConfig(t)
	must(t, os.MkdirAll(filepath.Join(cfg.RunDir, "pulse", "in the way"), 0o700))
	d := supervised(t, m, cfg)
	d.pulse.ready(t.Context(), d.taken)
	m.Await(t, "READY=1")
	for {
		if beat := m.Await(t, "WATCHDOG=1"); strings.Contains(beat.Value("STATUS"), "cannot write into the run directory") {
			break
		}
	}
	must(t, d.Close(t.Context()))
}

func TestOverdue(t *testing.T) {
	now := time.Now()
	for _, c := range []struct {
		name  string
		phase vmstate.Phase
		stood time.Duration
		pause int
		began time.Duration // the daemon, ago
		late  bool
	}{
		{"just begun", vmstate.Switching, time.Second, 0, 24 * time.Hour, false},
		{"long", vmstate.Switching, 121 * time.Second, 0, 24 * time.Hour, true},
		{"long, as it may", vmstate.Switching, 121 * time.Second, 5000, 24 * time.Hour, false},
		{"long in committing", vmstate.Committing, 126 * time.Second, 5000, 24 * time.Hour, true},
		{"an earlier daemon's", vmstate.Committing, time.Hour, 0, 90 * time.Minute, false},
		{"the guest runs before", vmstate.Prepared, time.Hour, 0, 24 * time.Hour, false},
		{"the guest runs after", vmstate.Draining, time.Hour, 0, 24 * time.Hour, false},
		{"over", vmstate.Failed, time.Hour, 0, 24 * time.Hour, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := overdue(vmstate.Migration{
				ID: "mig-1", VM: "vm1", Phase: c.phase, Spec: &vmstate.MigrationSpec{MaxPauseMS: c.pause}, StartedAt: now.Add(-2 * time.Hour),
				Phases: []vmstate.PhaseTime{{Phase: vmstate.Prepared, At: now.Add(-2 * time.Hour)}, {Phase: c.phase, At: now.Add(-c.stood)}},
			}, now.Add(-c.began), now)
			if c.late != (err != nil) {
				t.Error(err)
			}
		})
	}
}

func listening(t *testing.T, network, address string) systemd.File {
	t.Helper()
	l, err := net.Listen(network, address)
	must(t, err)
	if u, ok := l.(*net.UnixListener); ok {
		u.SetUnlinkOnClose(false)
	}
	f, err := l.(interface{ File() (*os.File, error) }).File()
	must(t, err)
	must(t, l.Close())
	t.Cleanup(func() { f.Close() })
	return systemd.File{File: f}
}

// The daemon answers on the socket that the manager listens on, and leaves it there.
func TestSocketOfTheManager(t *testing.T) {
	for name, fdname := range map[string]string{"by name": socketName, "the only one": "qlive.socket"} {
		t.Run(name, func(t *testing.T) {
			m := systemdtest.New(t, "")
			cfg := testConfig(t)
			socket := listening(t, "unix", cfg.Socket)
			socket.Name = fdname
			more := []systemd.File{socket, {Name: "ram-vm1-pc.ram", File: ram(t, "vm1", "pc.ram").Files()[0]}}
			if fdname == socketName {
				more = append(more, listening(t, "unix", cfg.Socket+".other"))
			}
			d := New(cfg, Options{Version: "test", Systemd: started(t, m, nil, more...)})
			must(t, d.Open(t.Context()))
			ctx, cancel := context.WithCancel(t.Context())
			served := make(chan error, 1)
			go func() { served <- d.Serve(ctx) }()
			c := client.New(cfg.Socket)
			must(t, c.Ready(t.Context())) // even before it serves: the socket is there
			c.Close()
			cancel()
			must(t, <-served)
			must(t, d.Close(t.Context()))
			if _, err := os.Lstat(cfg.Socket); err != nil {
				t.Errorf("the manager's socket: %v", err)
			}
		})
	}
}

func TestSocketsThatCannotBe(t *testing.T) {
	dir := testConfig(t).Socket
	regular := systemd.File{Name: socketName, File: ram(t, "vm1", "pc.ram").Files()[0]}
	tcp := listening(t, "tcp", "127.0.0.1:0")
	tcp.Name = socketName
	for name, c := range map[string]struct {
		files []systemd.File
		says  string
	}{
		"no socket":          {[]systemd.File{regular}, "ListenStream="},
		"no unix socket":     {[]systemd.File{tcp}, "ListenStream="},
		"two without a name": {[]systemd.File{listening(t, "unix", dir+"a"), listening(t, "unix", dir+"b")}, "FileDescriptorName=qlive.sock"},
	} {
		t.Run(name, func(t *testing.T) {
			d := New(testConfig(t), Options{Systemd: started(t, systemdtest.New(t, ""), nil, c.files...)})
			must(t, d.Open(t.Context()))
			refusedAs(t, d.Serve(t.Context()), vmstate.Invalid, c.says)
			must(t, d.Close(t.Context()))
		})
	}
}
