package failures_test

import (
	"testing"

	"qlive/integration/env"
	"qlive/integration/lab"
)

// One guest goes through all that it survives, one case after the other. Each begins with the guest in the oldest QEMU; after one that has failed the next has a
// guest of its own.
func TestOneGuest(t *testing.T) {
	s := newScene(t)
	for _, tt := range []struct {
		name string
		do   func(*testing.T, *scene)
	}{
		{"cancel", cancel},
		{"too late to cancel", tooLateToCancel},
		{"nobody else holds the channel", nobodyElseHoldsTheChannel},
		{"capability refused", capabilityRefused},
		{"hung target leaves the source its monitor", hungTargetLeavesTheSourceItsMonitor},
		{"death of the target frees the source", deathOfTheTargetFreesTheSource},
		{"paused", pausedGuest},
		{"every step", everyStep},
		{"target killed", targetKilled},
		{"target hangs", targetHangs},
		{"max pause", maxPause},
		{"binaries not admitted", binariesNotAdmitted},
		{"typing", typing},
		{"typing on and on", typingOnAndOn},
		{"Linux meanwhile", linuxMeanwhile}, // the last: in the end the guest has panicked
	} {
		if !t.Run(tt.name, func(t *testing.T) { tt.do(t, s.ready(t)) }) {
			s.giveUp(t)
		}
	}
}

// ready sees to it that there is a guest: with video memory, and a monitor for its user.
func (s *scene) ready(t *testing.T) *scene {
	t.Helper()
	switch {
	case s.vm == nil:
		s.boot(lab.Spec{Args: []string{"-device", "VGA", "-qmp", "unix:" + s.bin + "/monitor,server=on,wait=off"}})
	case s.vm.Show().QEMU.Version != env.Installed:
		s.vm.HandOver(env.Installed, "")
	}
	return s
}

// giveUp ends a guest of which nobody knows how it is.
func (s *scene) giveUp(t *testing.T) {
	t.Helper()
	if s.vm == nil {
		return
	}
	if err := s.Client.RemoveVM(t.Context(), s.vm.Name, true); err != nil {
		t.Fatal(err)
	}
	s.vm = nil
}
