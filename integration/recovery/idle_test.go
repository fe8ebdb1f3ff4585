package recovery_test

import (
	"testing"

	"go.uber.org/goleak"

	"qlive/integration/env"
	"qlive/integration/guest"
	"qlive/vmstate"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// small is what a guest verifies quickly.
func small() guest.Params { return guest.Params{FillMiB: 16, DirtyMiB: 2, VerifySecs: -1} }

// The daemon is killed and started again under a running guest, before and after handoffs. The guest beats on as if nothing had
// happened, is the same VM to whoever asks, and is handed over again.
func killedAtRest(t *testing.T, s *scene) {
	d, vm := s.Daemon, s.vm
	before := vm.Show()
	d.Kill()
	vm.AwaitBeats(1500) // each of them a line on the console, which nobody reads through QEMU
	d.Start()
	same(t, before, vm.Show())
	if got := d.Cat(vm.Name, "status") + " " + d.Cat("health"); got != "running ok" {
		t.Errorf("the tree, mounted anew, says %q", got)
	}
	vm.AwaitBeats(50)
	m := vm.HandOver(env.Newest, "")

	before = vm.Show()
	d.Restart()
	same(t, before, vm.Show())
	again, err := d.Client.Migration(t.Context(), m.ID, 0)
	if err != nil || again.Phase != vmstate.Completed || again.From.PID != m.From.PID || again.To.PID != m.To.PID {
		t.Errorf("the migration is remembered as %+v (%v), it was %+v", again, err, m)
	}
	vm.HandOver(env.Installed, "")
	vm.CheckMemory()
}

// same fails the test unless what a restart of the daemon must not change is unchanged.
func same(t *testing.T, a, b vmstate.VM) {
	t.Helper()
	if a.PID != b.PID || a.Status != b.Status || a.RunState != b.RunState || a.Generation != b.Generation || !a.StartedAt.Equal(b.StartedAt) ||
		a.QEMU != b.QEMU || a.RAMBytes != b.RAMBytes || len(a.Regions) != len(b.Regions) || a.Regions[0].Inode != b.Regions[0].Inode ||
		a.Migration != b.Migration || len(a.Warnings) != len(b.Warnings) || len(a.Argv) != len(b.Argv) {
		t.Errorf("the VM was %+v\nand is %+v", a, b)
	}
}
