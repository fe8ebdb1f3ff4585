package recovery_test

import (
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"qlive/integration/env"
	"qlive/vmstate"
)

// A QEMU that hangs while its handoff is taken up makes the VM failed, and nothing is done to it; when it goes on, so does the guest, in one of the two.
func silenceEnds(t *testing.T, s *scene) {
	d, vm := s.Daemon, s.vm
	for _, c := range []struct {
		name, point string
		target      bool // it is the target that hangs
		says        string
		to          string // where the guest is in the end
	}{
		{"source", "flip.load.after", false, "only the source can run the guest, and it does not answer", env.Installed},
		{"target", "flip.run-target.before", true, "may run the guest now or later", env.Newest},
	} {
		t.Run(c.name, func(t *testing.T) {
			source := vm.Show().PID
			id := s.dies(t, c.point, "")
			hangs := source
			for _, pid := range d.QEMUs(t) {
				if c.target && pid != source {
					hangs = pid
				}
			}
			if err := unix.Kill(hangs, unix.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			d.Start()
			d.Undecided(vm.Name)
			if m := vm.Wait(id); m.Phase != vmstate.Failed || m.Error == nil || !strings.Contains(m.Error.Detail, c.says) {
				t.Errorf("the migration is %s: %+v", m.Phase, m.Error)
			}
			if err := unix.Kill(hangs, unix.SIGCONT); err != nil {
				t.Fatal(err)
			}
			d.Eventually("the guest runs", func() error {
				if now := vm.Show(); now.Status != vmstate.Running || now.QEMU.Version != c.to {
					return fmt.Errorf("it is %s in %s: %+v", now.Status, now.QEMU.Version, now.Error)
				}
				return nil
			})
			vm.AwaitBeats(100)
			vm.CheckTruth()
			vm.HandOver(env.Installed, vmstate.WayAuto)
		})
	}
}
