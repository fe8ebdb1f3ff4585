package handoff_test

import (
	"errors"
	"testing"
	"time"

	"qlive/integration/env"
	"qlive/integration/lab"
	"qlive/internal/failpoint"
	"qlive/vmstate"
)

// A target that is not told to run has not run: the guest goes on in the source. One that may have been told and says nothing leaves the
// VM undecided: nothing but its removal by force touches either QEMU.
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
	id := vm.MigrateNoWait(vmstate.MigrationSpec{Binary: l.Env.QEMU(env.Newest)})
	m = vm.Wait(id)
	if m.Phase != vmstate.Failed || m.Error == nil || m.Error.Kind() != vmstate.Lost {
		t.Fatalf("the target says nothing, and the handoff is %s: %+v", m.Phase, m.Error)
	}
	if v := vm.Show(); v.Status != vmstate.Broken || v.Error == nil {
		t.Errorf("the VM is %s, %+v", v.Status, v.Error)
	}
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
