package cpr_test

import (
	"testing"

	"qlive/integration/env"
	"qlive/integration/lab"
	"qlive/vmstate"
)

// The daemon is killed where only it keeps the two QEMUs apart; the next one decides. Before the switch the guest notices nothing: the source, left
// alone, gives its cpr-transfer up. The guest is one of i440fx with UEFI, whose flash must be found again by its next reboot.
func TestDaemonKilled(t *testing.T) {
	d := lab.NewDaemon(t, lab.DaemonOptions{NoTree: true})
	piix := spec(env.Backport)
	piix.Machine, piix.Args = "pc-i440fx-7.2,aux-ram-share=on", append(piix.Args, d.UEFI(t)...)
	s := &scene{Lab: d.Lab, vm: d.Boot(piix)}
	versions := []string{env.Newest, env.Backport}
	for _, tt := range []struct {
		point string
		end   vmstate.Phase
	}{
		{"flip.offer.after", vmstate.RolledBack},
		{"flip.hold.before", vmstate.RolledBack},
		{"flip.stop.after", vmstate.RolledBack},
		{"flip.migrate.after", vmstate.RolledBack},
		{"flip.load.after", vmstate.RolledBack},
		{"flip.run-target.before", vmstate.Completed},
		{"flip.run-target.after", vmstate.Completed},
	} {
		t.Run(tt.point, func(t *testing.T) {
			d.SetFailpoints(tt.point + "=kill")
			d.Kill()
			d.Start()
			id := s.vm.MigrateNoWait(s.cpr(versions[0]))
			_ = d.AwaitEnd() // by the failpoint
			if tt.point == "flip.hold.before" || tt.point == "flip.offer.after" {
				s.vm.AwaitBeats(50)
			}
			d.SetFailpoints("")
			d.Start()
			m := s.vm.Wait(id)
			if m.Phase != tt.end || m.Mode != vmstate.ModeCPR {
				t.Fatalf("the migration is %s in mode %s, want %s: %+v", m.Phase, m.Mode, tt.end, m.Error)
			}
			if tt.end == vmstate.Completed {
				versions[0], versions[1] = versions[1], versions[0]
			}
			s.one(t)
			s.vm.AwaitBeats(20)
			s.vm.CheckMemory()
		})
	}
	s.hand(t, versions[0])
	s.vm.HandOver(versions[1], "")
	s.vm.Type("reboot")
	s.vm.AwaitBoots(2)
	s.hand(t, versions[0])
}
