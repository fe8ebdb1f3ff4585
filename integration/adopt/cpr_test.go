package adopt_test

import (
	"testing"

	"qlive/integration/env"
	"qlive/integration/lab"
	"qlive/vmstate"
)

// A guest that somebody has started for cpr-transfer, with RAM that QEMU's own migration would copy, goes over in mode cpr and stays on its memory,
// which is then as good as qlive's own.
func TestCPR(t *testing.T) {
	l := lab.New(t, lab.Options{NoTree: true})
	s := start(t, l, env.Backport, linux(l, "-m", "256", "-machine", "pc-q35-7.2,memory-backend=ram0,aux-ram-share=on",
		"-object", "memory-backend-memfd,share=on,id=ram0,size=256M", "-device", "VGA")...).up()
	s.awaitTruth(20)
	inode := s.adopt("vm1").Adoption.Regions[0].Inode
	m := s.handOver(vmstate.MigrationSpec{VM: "vm1", Binary: l.Env.QEMU(env.Newest), Mode: vmstate.ModeCPR})
	if m.Mode != vmstate.ModeCPR {
		t.Errorf("by mode %s", m.Mode)
	}
	<-s.ended // the source is gone
	s.awaitTruth(50)
	for _, version := range []string{env.Backport, env.Newest} {
		s.handOver(vmstate.MigrationSpec{VM: "vm1", Binary: l.Env.QEMU(version)})
		s.awaitTruth(50)
	}
	vm, err := l.Client.VM(t.Context(), "vm1")
	if err != nil || len(vm.Regions) != 1 || vm.Regions[0].Inode != inode {
		t.Errorf("the RAM was inode %d, now %+v, %v", inode, vm.Regions, err)
	}
	if err := l.Client.RemoveVM(t.Context(), "vm1", true); err != nil {
		t.Fatal(err)
	}
}
