package recovery_test

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"qlive/integration/env"
	"qlive/integration/lab"
	"qlive/vmstate"
)

// Nobody can say whether a target that hangs has been told to run: the VM stands as failed, across restarts, until a person decides. Each choice is carried out as
// it says, or refused.
func TestResolve(t *testing.T) {
	for _, tt := range []struct {
		to     string
		status vmstate.Status
	}{
		{"source", vmstate.Running},
		{"discard", vmstate.Stopped},
	} {
		t.Run(tt.to, func(t *testing.T) {
			d := lab.NewDaemon(t, lab.DaemonOptions{NoTree: true, Failpoints: "flip.run-target.before=kill"})
			vm := d.Boot(lab.Spec{Guest: small()})
			target := undecide(t, d, vm)
			if tt.to == "source" {
				stands(t, d, vm)
			}
			if out, err := d.Qlive("resolve", vm.Name, "--to", tt.to, "--yes"); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			if v := vm.Show(); v.Status != tt.status || v.Error != nil || v.PID == target {
				t.Errorf("the VM is %s, pid %d, %+v; the target was %d", v.Status, v.PID, v.Error, target)
			}
			if tt.to == "discard" {
				if left := d.QEMUs(t); len(left) > 0 {
					t.Errorf("QEMUs are left: %v", left)
				}
				return
			}
			one(d, t)
			vm.CheckMemory()
			d.Restart()
			vm.HandOver(env.Backport, "")
			vm.CheckMemory()
		})
	}
}

// undecide has the daemon die when it is about to tell the target to run, stops the target, and starts the next daemon.
func undecide(t *testing.T, d *lab.Daemon, vm *lab.VM) (target int) {
	t.Helper()
	source := vm.Show().PID
	id := vm.MigrateNoWait(vmstate.MigrationSpec{Binary: d.Env.QEMU(env.Newest)})
	_ = d.AwaitEnd() // by the failpoint
	target = other(t, d, source)
	signal(t, target, unix.SIGSTOP)
	d.SetFailpoints("")
	d.Start()
	if m := vm.Wait(id); m.Phase != vmstate.Failed {
		t.Fatalf("the migration is %s: %+v", m.Phase, m.Error)
	}
	d.Undecided(vm.Name)
	return target
}

// stands looks at a VM that nobody can decide of: it says so, gives nothing away unasked, and stays so across a restart.
func stands(t *testing.T, d *lab.Daemon, vm *lab.VM) {
	t.Helper()
	if out, err := d.Qlive("resolve", vm.Name); err != nil || !strings.Contains(out, "alive, silent") || !strings.Contains(out, "discard") {
		t.Errorf("%v: %s", err, out)
	}
	if out, err := d.Qlive("resolve", vm.Name, "--to", "target", "--yes"); err == nil {
		t.Errorf("a target that does not answer was given the guest: %s", out)
	}
	d.Restart()
	if v := vm.Show(); v.Status != vmstate.Broken || len(d.QEMUs(t)) != 2 {
		t.Errorf("after another restart the VM is %s, with QEMUs %v", v.Status, d.QEMUs(t))
	}
}
