package adopt_test

import (
	"testing"

	"qlive/integration/env"
	"qlive/integration/guest"
	"qlive/integration/lab"
	"qlive/vmstate"
)

// A guest of a stranger's with a plain -m, that dirties its memory all the time, is moved once into memory of qlive's, and from then on handed
// over without copying. At no time is there much more of its RAM than there is of the guest: its pattern fills more than half of it.
func TestPrivateRAM(t *testing.T) {
	l := lab.New(t, lab.Options{NoTree: true})
	s := start(t, l, env.Installed, "-qmp", "unix:qmp,server=on,wait=off", "-kernel", l.Env.Kernel, "-initrd", l.Initrd, "-m", "256", "-machine", "pc-q35-7.2",
		"-append", guest.Append(guest.Params{FillMiB: 144, DirtyMiB: 2, VerifySecs: 1})).up()
	s.awaitTruth(20)
	watched := s.watchPeak(256 * mib)
	s.adopt("vm1")
	m := s.handOver(vmstate.MigrationSpec{VM: "vm1", Binary: l.Env.QEMU(env.Backport), Mode: vmstate.ModePostcopy})
	<-s.ended
	s.awaitTruth(50)
	vm, err := l.Client.VM(t.Context(), "vm1")
	if err != nil {
		t.Fatal(err)
	}
	if m.Mode != vmstate.ModePostcopy || vm.Adoption != nil || len(vm.Regions) != 1 || vm.Regions[0].Backing != vmstate.Memfd || vm.Regions[0].Inode == 0 || vm.RAMBytes != 256*mib {
		t.Errorf("after the move: %+v\nby %+v", vm, m)
	}
	inode := vm.Regions[0].Inode
	for _, version := range []string{env.Newest, env.Installed} {
		if m := s.handOver(vmstate.MigrationSpec{VM: "vm1", Binary: l.Env.QEMU(version)}); m.Mode != vmstate.ModeShared {
			t.Errorf("handed on in mode %s", m.Mode)
		}
		s.awaitTruth(30)
	}
	checkPeak(t, watched.stop(), 256*mib)
	if vm, err = l.Client.VM(t.Context(), "vm1"); err != nil || vm.Regions[0].Inode != inode {
		t.Errorf("its RAM has become another: %+v, %v", vm.Regions, err)
	}
	_, err = l.Client.Migrate(t.Context(), vmstate.MigrationSpec{VM: "vm1", Binary: l.Env.QEMU(env.Backport), Mode: vmstate.ModePostcopy}, "")
	refused(t, err, vmstate.Unsupported, "qlive's already")
}
