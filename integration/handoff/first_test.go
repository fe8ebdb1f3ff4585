package handoff_test

import (
	"testing"

	"qlive/integration/lab"
	"qlive/vmstate"
)

// A guest goes through every ordered pair of QEMUs, by each of the three ways, and never notices more than a pause.
func TestThereAndBack(t *testing.T) {
	for _, way := range vmstate.Ways() {
		t.Run(string(way), func(t *testing.T) {
			l := lab.New(t, lab.Options{})
			vm := l.Boot(lab.Spec{})
			for _, version := range tour() {
				m := vm.HandOver(version, way)
				vm.AwaitBeats(100)
				t.Logf("%s: pause %d µs, by QEMU %d µs, extra %d KiB, gaps %v", version, *m.PauseUS, *m.QEMUPause, m.ExtraBytes>>10, vm.Window().Guest)
				if got := l.Cat("vm1", "qemu_version"); got != version {
					t.Errorf("the tree says that QEMU %s has the guest, want %s", got, version)
				}
				vm.CheckMemory()
			}
			if v := vm.Show(); v.Generation != len(tour()) || v.Status != vmstate.Running {
				t.Errorf("in the end the VM is %s, generation %d", v.Status, v.Generation)
			}
		})
	}
}
