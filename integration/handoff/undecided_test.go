package handoff_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"qlive/integration/env"
	"qlive/integration/lab"
	"qlive/internal/failpoint"
	"qlive/vmstate"
)

// undecided hands over to a target that hangs as it is told to run.
func undecided(t *testing.T, vm *lab.VM) vmstate.Migration {
	t.Helper()
	e, err := env.Locate()
	if err != nil {
		t.Fatal(err)
	}
	m := vm.Wait(vm.MigrateNoWait(vmstate.MigrationSpec{Binary: e.QEMU(env.Newest)}))
	if m.Phase != vmstate.Failed || m.Error == nil || m.Error.Kind() != vmstate.Lost {
		t.Fatalf("the target says nothing, and the handoff is %s: %+v", m.Phase, m.Error)
	}
	if v := vm.Show(); v.Status != vmstate.Broken || v.Error == nil {
		t.Errorf("the VM is %s, %+v", v.Status, v.Error)
	}
	return m
}

// A target that is not told to run has not run: the guest goes on in the source. One that may have been told and says nothing leaves the
// VM undecided: nothing but its removal by force touches either QEMU, until the target speaks.
func TestPointOfNoReturn(t *testing.T) {
	fail, err := failpoint.New("")
	if err != nil {
		t.Fatal(err)
	}
	l := lab.New(t, lab.Options{Failpoints: fail, ContLimit: 2 * time.Second})
	vm := l.Boot(lab.Spec{})

	fail.Func("flip.run-target.before", func() error { return errors.New("not sent") })
	m := vm.Migrate(vmstate.MigrationSpec{Binary: l.Env.QEMU(env.Newest)})
	if m.Phase != vmstate.RolledBack {
		t.Fatalf("the target was not told to run, and the handoff is %s: %+v", m.Phase, m.Error)
	}
	vm.CheckMemory()
	fail.Func("flip.run-target.before", nil)

	// The target hangs as it is told to run.
	vm.HandOver(env.Backport, "")
	fail.Func("flip.load.after", func() error { return l.StopTarget(t, vm.Name) })
	m = undecided(t, vm)

	// It goes on, and has obeyed.
	if err := unix.Kill(m.To.PID, unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	l.Eventually("the guest runs in the target", func() error {
		if v := vm.Show(); v.Status != vmstate.Running || v.PID != m.To.PID || v.Error != nil {
			return fmt.Errorf("it is %s in %d: %+v", v.Status, v.PID, v.Error)
		}
		return nil
	})
	vm.CheckMemory()

	// It hangs for good.
	undecided(t, vm)
	ctx := t.Context()
	if _, err := l.Client.Resume(ctx, vm.Name); vmstate.KindOf(err) != vmstate.Lost {
		t.Errorf("resuming an undecided VM: %v", err)
	}
	if _, err := l.Client.Migrate(ctx, vmstate.MigrationSpec{VM: vm.Name, Binary: l.Env.QEMU(env.Newest)}, ""); vmstate.KindOf(err) != vmstate.Lost {
		t.Errorf("handing over an undecided VM: %v", err)
	}
	if err := l.Client.RemoveVM(ctx, vm.Name, false); vmstate.KindOf(err) != vmstate.Lost {
		t.Errorf("powering down an undecided VM: %v", err)
	}
	if err := l.Client.RemoveVM(ctx, vm.Name, true); err != nil {
		t.Errorf("removing an undecided VM: %v", err)
	}
	if left := l.QEMUs(t); len(left) > 0 {
		t.Errorf("QEMUs are left: %v", left)
	}
}
