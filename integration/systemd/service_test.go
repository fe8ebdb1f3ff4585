package systemd_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
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
func start(t *testing.T, failpoints string) *service {
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
	s.Daemon = lab.NewDaemon(t, lab.DaemonOptions{Failpoints: failpoints, Prepare: func(cmd *exec.Cmd) {
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

// A daemon that is stuck misses its watchdog; ended as systemd does it, it says where it is stuck, and the next one is well.
func TestStuckDaemonIsNoticed(t *testing.T) {
	s := start(t, "daemon.reserve=block")
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

// A daemon that is told to end while a guest is handed over asks for the time that this takes, says what it does, and ends well.
func TestEndWhileHandingOver(t *testing.T) {
	s := start(t, "flip.load.before=delay(1500ms)")
	vm := s.Boot(small())
	m, err := s.Client.Migrate(t.Context(), vmstate.MigrationSpec{VM: vm.Name, Binary: s.Env.QEMU(env.Newest), MaxPauseMS: 20_000}, "")
	if err != nil {
		t.Fatal(err)
	}
	s.Eventually("the guest stands", func() error {
		now, err := s.Client.Migration(t.Context(), m.ID, 0)
		if err == nil && now.Phase != vmstate.Switching {
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
	vm.AwaitBeats(20)
	vm.CheckTruth()
}
