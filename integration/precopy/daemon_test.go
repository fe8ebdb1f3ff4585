package precopy_test

import (
	"path/filepath"
	"testing"

	"qlive/integration/env"
	"qlive/integration/lab"
	"qlive/vmstate"
)

// A daemon that dies while a guest is copied, or when QEMU has stopped the guest for the switch, takes the copy with it: the guest goes on in its source, which needs
// nobody for that. The guest's RAM is a private copy of a file, and becomes a memfd in the end.
func TestDaemonKilled(t *testing.T) {
	t.Parallel()
	const copied = "flip.copying.after=1*off->kill"
	d := lab.NewDaemon(t, lab.DaemonOptions{NoTree: true, Failpoints: copied})
	s := start(t, d.Lab, env.Backport, linux(d.Lab, "-mem-path", filepath.Join(t.TempDir(), "ram"))...)
	s.awaitBeats(20)
	if a := s.adopt(); a.Mode != vmstate.ModePrecopy || !a.NeedsAssent || a.PeakBytes < 256*mib || a.Regions[0].Backing != vmstate.PrivateFile {
		t.Errorf("the report is %+v", a)
	}
	if _, err := d.Client.Migrate(t.Context(), vmstate.MigrationSpec{VM: "vm1", Binary: d.Env.QEMU(env.Newest)}, ""); vmstate.KindOf(err) != vmstate.Unsupported {
		t.Errorf("mode auto: %v", err)
	}
	for _, next := range []string{"flip.load.before=kill", ""} {
		m := ask(t, d.Lab, env.Newest)
		_ = d.AwaitEnd() // by the failpoint
		s.awaitBeats(20)
		d.SetFailpoints(next)
		d.Start()
		ends(t, d.Lab, m.ID, vmstate.RolledBack, "the daemon ended while it was")
		vm, err := d.Client.VM(t.Context(), "vm1")
		if err != nil || vm.PID != s.pid() || vm.Status != vmstate.Running || vm.Adoption == nil || vm.Regions[0].Backing != vmstate.PrivateFile {
			t.Errorf("afterwards it is %+v, %v", vm, err)
		}
	}
	ends(t, d.Lab, ask(t, d.Lab, env.Installed).ID, vmstate.Completed, "")
	<-s.ended
	s.awaitTruth(30)
}
