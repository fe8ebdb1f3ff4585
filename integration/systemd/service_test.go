package systemd_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"qlive/integration/env"
	"qlive/integration/guest"
	"qlive/integration/lab"
	"qlive/internal/systemd"
	"qlive/internal/systemd/systemdtest"
	"qlive/vmstate"
)

// watchdog is much shorter than in the unit, so that nobody has to wait for it.
const watchdog = 900 * time.Millisecond

// service is a daemon that is run as qlive.service says, but for what only systemd itself can do.
type service struct {
	*lab.Daemon
	manager *systemdtest.Manager
}

// start starts the service and its socket. It has no capabilities but the unit's.
func start(t *testing.T, program, failpoints string) *service {
	t.Helper()
	setpriv, err := exec.LookPath("setpriv")
	if err != nil {
		t.Fatal(err)
	}
	var dropped []string
	for _, c := range strings.Fields(strings.TrimPrefix(value(unit(t, "qlive.service"), "Service", "CapabilityBoundingSet"), "~")) {
		dropped = append(dropped, "-"+strings.ToLower(strings.TrimPrefix(c, "CAP_")))
	}
	s := &service{manager: systemdtest.New(t, "")}
	var socket *os.File
	s.Daemon = lab.NewDaemon(t, lab.DaemonOptions{Program: program, Failpoints: failpoints, Prepare: func(cmd *exec.Cmd) {
		if socket == nil {
			socket = listenAt(t, cmd.Args[slices.Index(cmd.Args, "--socket")+1])
		}
		cmd.Args = append([]string{"setpriv", "--bounding-set=" + strings.Join(dropped, ","), cmd.Path}, cmd.Args[1:]...)
		cmd.Path = setpriv
		s.manager.Prepare(cmd, systemdtest.Unit{Watchdog: watchdog, StoreMax: 1024, Sockets: []systemd.File{{Name: "qlive.sock", File: socket}}})
	}})
	return s
}

func listenAt(t *testing.T, path string) *os.File {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	defer l.Close()
	f, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// small is a guest that is quick to start.
func small() lab.Spec {
	return lab.Spec{Guest: guest.Params{FillMiB: 16, DirtyMiB: 2, VerifySecs: -1}}
}

// inodes are those of what is stored, by name.
func (s *service) inodes(t *testing.T) map[string]uint64 {
	t.Helper()
	list := make(map[string]uint64)
	for _, f := range s.manager.Stored() {
		info, err := f.Stat()
		if err != nil {
			t.Fatal(err)
		}
		list[f.Name] = info.Sys().(*syscall.Stat_t).Ino
	}
	return list
}

// stores is how often descriptors were given to the store.
func (s *service) stores() (n int) {
	for _, m := range s.manager.Messages() {
		if m.Has("FDSTORE=1") {
			n++
		}
	}
	return n
}

// The program as a service: of a systemd that runs, and of a manager that speaks its protocol and sees each word.
func TestService(t *testing.T) {
	program := lab.BuildProgram(t, "test")
	t.Run("under systemd", func(t *testing.T) { testUnderSystemd(t, program) })
	t.Run("life", func(t *testing.T) { testLife(t, start(t, program, "")) })
	t.Run("a daemon that is stuck", func(t *testing.T) { testStuck(t, start(t, program, "daemon.reserve=block")) })
}

// A service tells its manager what it does; the guest's RAM is stored as long as there is a guest; a daemon that is killed is followed by
// one that takes the stored RAM, with which the guest goes on and is handed over.
func testLife(t *testing.T, s *service) {
	ready := s.manager.Await(t, "READY=1")
	if ready.PID != s.PID() {
		t.Errorf("%+v is not from the daemon, %d", ready, s.PID())
	}
	vm := s.Boot(small())
	for range 3 {
		s.manager.Await(t, "WATCHDOG=1")
	}
	want := map[string]uint64{}
	for _, r := range vm.Show().Regions {
		want["ram-vm1-"+r.Name] = r.Inode
	}
	if got := s.inodes(t); len(got) == 0 || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("stored: %v, want %v", got, want)
	}
	for _, m := range s.manager.Messages() {
		if m.Has("FDSTORE=1") && (!m.Has("FDPOLL=0") || m.PID != s.PID()) {
			t.Errorf("%+v", m)
		}
	}

	stores := s.stores()
	s.Restart()
	s.manager.Await(t, "READY=1")
	if got := vm.Show(); got.Status != vmstate.Running || got.Regions[0].Inode != want["ram-vm1-"+got.Regions[0].Name] {
		t.Errorf("after the restart: %+v", got)
	}
	if n := s.stores(); n != stores || fmt.Sprint(s.inodes(t)) != fmt.Sprint(want) {
		t.Errorf("the next daemon did not take what was stored: %d descriptors more were sent, stored are %v", n-stores, s.inodes(t))
	}
	vm.HandOver(env.Newest, "")
	vm.CheckMemory()

	s.SetFailpoints("flip.end-source.before=delay(2s)")
	s.Restart()
	s.endWhileHandingOver(t, vm)
	if got := s.inodes(t); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("stored after the end of the daemon: %v", got)
	}
	if _, err := os.Lstat(s.Socket); err != nil {
		t.Errorf("the manager's socket after the end of the daemon: %v", err)
	}
	s.SetFailpoints("")
	s.Start()
	vm.CheckMemory()
	if err := s.Client.RemoveVM(t.Context(), vm.Name, true); err != nil {
		t.Fatal(err)
	}
	s.Eventually("nothing is stored any more", func() error {
		if got := s.inodes(t); len(got) > 0 {
			return fmt.Errorf("stored: %v", got)
		}
		return nil
	})
}

// A daemon that is stuck misses its watchdog; ended as systemd does it, it says where it is stuck, and the next one is well.
func testStuck(t *testing.T, s *service) {
	s.manager.Await(t, "READY=1")
	s.manager.Await(t, "WATCHDOG=1")
	ctx, cancel := context.WithCancel(t.Context())
	asked := make(chan error, 1)
	go func() {
		_, err := s.Client.StartVM(ctx, vmstate.VMSpec{Name: "vm1", Binary: s.Env.QEMU(env.Installed), Args: s.Args(small())})
		asked <- err
	}()
	s.manager.AwaitSilence(t, "WATCHDOG=1", watchdog)
	select {
	case err := <-asked:
		t.Fatalf("a stuck daemon answers: %v", err)
	default:
	}
	s.Signal(unix.SIGABRT)
	if err := s.AwaitEnd(); err == nil {
		t.Error("it ends well")
	}
	cancel()
	if err := <-asked; err == nil {
		t.Error("a stuck daemon has started a VM")
	}
	if log := s.Log(); !strings.Contains(log, "SIGABRT") || !strings.Contains(log, ".reserve(") {
		t.Error("its log does not say where it is stuck")
	}
	s.SetFailpoints("")
	s.Start()
	s.manager.Await(t, "READY=1")
	s.manager.Await(t, "WATCHDOG=1")
}

// endWhileHandingOver tells the daemon to end while a guest is handed over, where that can only be finished: it asks for the time that this takes, says what it does, and
// ends well.
func (s *service) endWhileHandingOver(t *testing.T, vm *lab.VM) {
	t.Helper()
	m, err := s.Client.Migrate(t.Context(), vmstate.MigrationSpec{VM: vm.Name, Binary: s.Env.QEMU(env.Installed), MaxPauseMS: 20_000}, "")
	if err != nil {
		t.Fatal(err)
	}
	s.Eventually("the guest runs in the target", func() error {
		now, err := s.Client.Migration(t.Context(), m.ID, 0)
		if err == nil && now.Phase != vmstate.Draining {
			err = fmt.Errorf("it is %s", now.Phase)
		}
		return err
	})
	s.Signal(unix.SIGTERM)
	s.manager.Await(t, "STOPPING=1")
	if asks := s.manager.Await(t, "WATCHDOG=1"); !asks.Has("EXTEND_TIMEOUT_USEC=30000000") || !strings.Contains(asks.Value("STATUS"), "1 handoffs under way") {
		t.Errorf("%+v", asks)
	}
	if err := s.AwaitEnd(); err != nil {
		t.Errorf("the daemon ends with: %v", err)
	}
}
