package adopt_test

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"qlive/daemon"
	"qlive/integration/env"
	"qlive/integration/lab"
	"qlive/internal/qmp"
	"qlive/vmstate"
)

// What cannot be adopted is said, with the way out, and runs on as it did.
func TestRefused(t *testing.T) {
	l := lab.New(t, lab.Options{NoTree: true})
	s := start(t, l, env.Installed, firmware()...).up()
	adopt := func(ask vmstate.AdoptSpec) error {
		_, err := l.Client.StartVM(t.Context(), vmstate.VMSpec{Name: "vm1", Adopt: &ask})
		return err
	}
	refused(t, adopt(vmstate.AdoptSpec{PID: os.Getpid(), QMP: s.monitor}), vmstate.Conflict, "listens there")
	refused(t, adopt(vmstate.AdoptSpec{PID: os.Getpid()}), vmstate.Unsupported, "it has no monitor")
	refused(t, adopt(vmstate.AdoptSpec{PID: s.pid(), QMP: s.monitor + "x"}), vmstate.NotFound, "no such socket")
	first, err := net.Dial("unix", s.monitor)
	if err != nil {
		t.Fatal(err)
	}
	refused(t, adopt(vmstate.AdoptSpec{PID: s.pid()}), vmstate.Conflict, "another client has its monitor")
	first.Close()
	if vms, err := l.Client.VMs(t.Context()); err != nil || len(vms) > 0 {
		t.Errorf("there are VMs: %+v, %v", vms, err)
	}
	s.adopt("vm1")
	refused(t, adopt(vmstate.AdoptSpec{PID: s.pid()}), vmstate.Conflict, "it is the QEMU of the VM vm1")
}

// A guest whose RAM is private to its QEMU is adopted, and not moved without a word: what is told ahead is what is refused later.
func TestPrivateRAMWithoutConsent(t *testing.T) {
	l := lab.New(t, lab.Options{NoTree: true})
	s := start(t, l, env.Installed, firmware()...).up()
	look := s.adopt("vm1", func(a *vmstate.AdoptSpec) { a.DryRun = true; a.QMP = "" })
	if _, err := l.Client.VM(t.Context(), "vm1"); vmstate.KindOf(err) != vmstate.NotFound {
		t.Errorf("a look has made a VM: %v", err)
	}
	a := look.Adoption
	if a.Mode != vmstate.ModePostcopy || !a.NeedsAssent || a.Monitor != s.monitor || a.PID != s.pid() || a.Version != env.Installed || look.RAMBytes != 64*mib || a.PeakBytes == 0 {
		t.Errorf("the report is %+v", a)
	}
	vm := s.adopt("vm1")
	if vm.PID != s.pid() || len(vm.Regions) != 1 || vm.Regions[0].Backing != vmstate.Private || vm.Status != vmstate.Running {
		t.Errorf("the VM is %+v", vm)
	}
	for _, mode := range []vmstate.Mode{"", vmstate.ModeAuto, vmstate.ModeShared} {
		_, err := l.Client.Migrate(t.Context(), vmstate.MigrationSpec{VM: "vm1", Binary: l.Env.QEMU(env.Backport), Mode: mode}, "")
		refused(t, err, vmstate.Unsupported, "its RAM is private to its QEMU")
	}
}

// What a command line has that cannot be carried over stands in the report, and a handoff is refused for it; the VM is one all the same.
func TestObstacles(t *testing.T) {
	l := lab.New(t, lab.Options{NoTree: true})
	disk := filepath.Join(l.Dir, "disk")
	if err := os.WriteFile(disk, make([]byte, mib), 0o600); err != nil {
		t.Fatal(err)
	}
	s := start(t, l, env.Installed, firmware("-vnc", "127.0.0.1:77", "-monitor", "none", "-snapshot", "-gdb", "tcp:127.0.0.1:0", "-drive", "file="+disk+",format=raw,if=virtio,snapshot=off")...).up()
	s.ask(func(ctx context.Context, c *qmp.Client) error { // it has opened its disk by then
		_, err := c.QueryStatus(ctx)
		return err
	})
	if err := os.Remove(disk); err != nil {
		t.Fatal(err)
	}
	vm := s.adopt("vm1")
	if n := len(vm.Adoption.Obstacles); n != 3 || !strings.Contains(vm.Adoption.Obstacles[2].What, "cannot hand the image "+disk) {
		t.Errorf("%d obstacles: %+v", n, vm.Adoption.Obstacles)
	}
	_, err := l.Client.Migrate(t.Context(), vmstate.MigrationSpec{VM: "vm1", Binary: l.Env.QEMU(env.Backport), Mode: vmstate.ModeShared}, "")
	refused(t, err, vmstate.Unsupported, "-snapshot")
	if vm, err := l.Client.Pause(t.Context(), "vm1"); err != nil || vm.Status != vmstate.Paused {
		t.Errorf("pausing: %s, %v", vm.Status, err)
	}
	listening := false
	for _, d := range vm.Adoption.Descriptors {
		listening = listening || d.Kind == vmstate.HeldListening && d.Name == "127.0.0.1:5977"
	}
	if !listening {
		t.Errorf("the port of VNC is not among %+v", vm.Adoption.Descriptors)
	}
}

// An adopted VM is let go of unharmed, twice, and after that a VM of qlive's own as well.
func TestForget(t *testing.T) {
	l := lab.New(t, lab.Options{NoTree: true, Configure: func(c *daemon.Config) { c.Cgroup = "auto" }})
	s := start(t, l, env.Installed, firmware()...).up()
	for range 2 {
		s.adopt("vm1")
		if err := l.Client.ForgetVM(t.Context(), "vm1"); err != nil {
			t.Fatal(err)
		}
		s.ask(func(ctx context.Context, c *qmp.Client) error { // it runs, and its monitor is free
			status, err := c.QueryStatus(ctx)
			if err == nil && status.Status != qmp.RunRunning {
				t.Errorf("the guest is %s", status.Status)
			}
			return err
		})
		if _, err := l.Client.VM(t.Context(), "vm1"); vmstate.KindOf(err) != vmstate.NotFound {
			t.Errorf("the VM is still there: %v", err)
		}
	}
	vm, err := l.Client.StartVM(t.Context(), vmstate.VMSpec{Name: "vm1", Binary: l.Env.QEMU(env.Installed), Args: []string{"-accel", "tcg", "-machine", "pc-q35-7.2", "-m", "64", "-nodefaults"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Client.ForgetVM(t.Context(), "vm1"); err != nil {
		t.Fatal(err)
	}
	again, err := l.Client.StartVM(t.Context(), vmstate.VMSpec{Name: "vm1", Adopt: &vmstate.AdoptSpec{QMP: l.RunDir() + "/forgotten/vm1-" + itoa(vm.PID) + "/g0/own/qmp.sock"}})
	if err != nil {
		t.Fatal(err)
	}
	if again.PID != vm.PID || again.Adoption.Mode != vmstate.ModeShared {
		t.Errorf("adopted again: %+v", again.Adoption)
	}
}
