package adopt_test

import (
	"testing"

	"qlive/integration/env"
	"qlive/integration/lab"
	"qlive/vmstate"
)

// An adopted VM outlives the daemon: it is found again, is what it was, and is handed over by the daemon that comes next.
func TestDaemonStartedAgain(t *testing.T) {
	d := lab.NewDaemon(t, lab.DaemonOptions{})
	file := ram(t, 64*mib)
	s := start(t, d.Lab, env.Installed, firmware("-machine", "memory-backend=ram0", "-object", "memory-backend-file,share=on,id=ram0,size=64M,mem-path="+file)...).up()
	private := start(t, d.Lab, env.Installed, firmware()...).up()
	was := s.adopt("vm1")
	private.adopt("vm2")
	if out, err := d.Qlive("pause", "vm1"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	d.Restart()
	is, err := d.Client.VM(t.Context(), "vm1")
	if err != nil {
		t.Fatal(err)
	}
	if is.PID != s.pid() || is.Status != vmstate.Paused || is.Adoption == nil || is.RAMBytes != was.RAMBytes || len(is.Regions) != 1 || is.Regions[0].Inode != was.Regions[0].Inode {
		t.Errorf("it was %+v\nand is %+v", was, is)
	}
	if backing := d.Cat("vm1", "regions", "ram0", "backing"); backing != "file" {
		t.Errorf("the tree shows %s", backing)
	}
	if other, err := d.Client.VM(t.Context(), "vm2"); err != nil || other.Status != vmstate.Running || len(other.Regions) != 1 || other.RAMBytes != 64*mib {
		t.Errorf("the other is %+v, %v", other, err)
	}
	s.handOver(vmstate.MigrationSpec{VM: "vm1", Binary: d.Env.QEMU(env.Backport)}) // paused as it is
	<-s.ended
	d.Restart()
	if is, err = d.Client.VM(t.Context(), "vm1"); err != nil || is.Status != vmstate.Paused || is.Adoption != nil || is.Generation != 1 || is.Regions[0].Inode != was.Regions[0].Inode {
		t.Errorf("after the handoff it is %+v, %v", is, err)
	}
	if out, err := d.Qlive("rm", "--force", "vm1", "vm2"); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	<-private.ended
}
