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
func resolvedToSource(t *testing.T, s *scene) {
	target := s.undecide(t)
	stands(t, s.Daemon, s.vm)
	s.resolve(t, "source", vmstate.Running, target)
	one(s.Daemon, t)
	s.vm.CheckMemory()
	s.Restart()
	s.vm.HandOver(env.Backport, "")
	s.vm.CheckMemory()
}

// The same, and nobody gets the guest.
func discarded(t *testing.T, s *scene) {
	s.resolve(t, "discard", vmstate.Stopped, s.undecide(t))
	if left := s.QEMUs(t); len(left) > 0 {
		t.Errorf("QEMUs are left: %v", left)
	}
}

// resolve decides, and looks at what has come of it. The target may not have the guest.
func (s *scene) resolve(t *testing.T, to string, status vmstate.Status, target int) {
	t.Helper()
	if out, err := s.Qlive("resolve", s.vm.Name, "--to", to, "--yes"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if v := s.vm.Show(); v.Status != status || v.Error != nil || v.PID == target {
		t.Errorf("the VM is %s, pid %d, %+v; the target was %d", v.Status, v.PID, v.Error, target)
	}
}

// undecide has the daemon die when it is about to tell the target to run, stops the target, and starts the next daemon.
func (s *scene) undecide(t *testing.T) (target int) {
	t.Helper()
	source := s.vm.Show().PID
	id := s.dies(t, "flip.run-target.before", "")
	target = other(t, s.Daemon, source)
	signal(t, target, unix.SIGSTOP)
	s.Start()
	if m := s.vm.Wait(id); m.Phase != vmstate.Failed {
		t.Fatalf("the migration is %s: %+v", m.Phase, m.Error)
	}
	s.Undecided(s.vm.Name)
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
