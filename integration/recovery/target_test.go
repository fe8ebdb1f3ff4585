package recovery_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"qlive/integration/env"
	"qlive/integration/lab"
	"qlive/vmstate"
)

// A handoff that nobody can decide is given to the target by a person: one whose source died when the target had loaded all of the guest. What cannot be done as
// things are is refused with the reason, and touches nothing.
func sourceDead(t *testing.T, s *scene) {
	s.giveToTarget(t, "flip.load.after", vmstate.WayLive, func(t *testing.T, source int) func() {
		signal(t, source, unix.SIGKILL)
		return func() {}
	}, "it is not certain that the target has the guest as it was last", map[string]string{"source": "the source is dead"})
}

// And one on whose RAM a stranger was found.
func strangerMaps(t *testing.T, s *scene) {
	const stranger = "a process that qlive does not know"
	s.giveToTarget(t, "flip.run-target.before", vmstate.WayDeviceState, mapRAM, stranger+" maps the guest's RAM", map[string]string{"source": stranger, "target": stranger})
}

// giveToTarget has the daemon die at a point and something happen to the source before the next one looks. That one says why it cannot decide, and until it is mended
// refuses choices for a reason.
func (s *scene) giveToTarget(t *testing.T, point string, way vmstate.Way, disturb func(t *testing.T, source int) (mend func()), says string, refused map[string]string) {
	d, vm := s.Daemon, s.vm
	source := vm.Show().PID
	id := s.dies(t, point, way)
	target := other(t, d, source)
	mend := disturb(t, source)
	d.Start()
	if m := vm.Wait(id); m.Phase != vmstate.Failed || m.Error == nil || !strings.Contains(m.Error.Detail, says) {
		t.Fatalf("the migration is %s: %+v", m.Phase, m.Error)
	}
	before := fmt.Sprint(d.QEMUs(t))
	for to, why := range refused {
		if out, err := d.Qlive("resolve", vm.Name, "--to", to, "--yes"); err == nil || !strings.Contains(out, why) {
			t.Errorf("--to %s: %v: %s", to, err, out)
		}
	}
	if now := fmt.Sprint(d.QEMUs(t)); now != before || vm.Show().Status != vmstate.Broken {
		t.Errorf("after the refusals the QEMUs are %s, were %s, and the VM is %s", now, before, vm.Show().Status)
	}
	mend()
	if out, err := d.Qlive("resolve", vm.Name, "--to", "target", "--yes"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if v := vm.Show(); v.Status != vmstate.Running || v.Error != nil || v.PID != target {
		t.Errorf("the VM is %s, pid %d, %+v; the target is %d", v.Status, v.PID, v.Error, target)
	}
	one(d, t)
	vm.CheckMemory()
	d.Restart()
	vm.HandOver(env.Backport, "")
	vm.CheckMemory()
}

// other is the QEMU that is not pid.
func other(t *testing.T, d *lab.Daemon, pid int) int {
	t.Helper()
	for _, p := range d.QEMUs(t) {
		if p != pid {
			return p
		}
	}
	t.Fatalf("%d is the only QEMU", pid)
	return 0
}

// mapRAM makes this process map the guest's RAM, until mend is called.
func mapRAM(t *testing.T, source int) (mend func()) {
	t.Helper()
	folder := fmt.Sprintf("/proc/%d/fd/", source)
	entries, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if name, err := os.Readlink(folder + e.Name()); err != nil || !strings.Contains(name, "pc.ram") {
			continue
		}
		f, err := os.Open(folder + e.Name())
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		page, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ, unix.MAP_SHARED)
		if err != nil {
			t.Fatal(err)
		}
		gone := false
		mend = func() {
			if gone {
				return
			}
			gone = true
			if err := unix.Munmap(page); err != nil {
				t.Error(err)
			}
		}
		t.Cleanup(mend)
		return mend
	}
	t.Fatalf("process %d has no guest RAM", source)
	return nil
}
