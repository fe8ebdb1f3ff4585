package stage

import (
	"testing"

	"golang.org/x/sys/unix"

	"qlive/vmstate"
)

func TestStrikes(t *testing.T) {
	for _, tt := range []struct {
		strike     Strike
		n          int
		name       string
		failpoints string
		possible   bool
	}{
		{Strike{Party: Daemon, Signal: unix.SIGKILL, Point: "flip.plan.before"}, 1, "flip.plan.before/daemon/SIGKILL", "flip.plan.before=1*stop", true},
		{Strike{Party: Daemon, Signal: unix.SIGSTOP, Point: "flip.plan.before", GoesOn: true}, 3, "flip.plan.before/daemon/SIGSTOP+SIGCONT", "flip.plan.before=2*off->1*stop", true},
		{Strike{Party: Target, Signal: unix.SIGKILL, Point: "flip.plan.before"}, 1, "flip.plan.before/target/SIGKILL", "flip.plan.before=1*stop", false},
		{Strike{Party: Source, Signal: unix.SIGKILL, Point: "flip.end-source.after"}, 1, "flip.end-source.after/source/SIGKILL", "flip.end-source.after=1*stop", false},
		{Strike{Party: Source, Signal: unix.SIGSTOP, After: 1500, And: true}, 1, "after 1.5µs/source/SIGSTOP+daemon", "", true},
	} {
		if s, f, p := tt.strike.String(), tt.strike.Failpoints(tt.n), tt.strike.Possible(); s != tt.name || f != tt.failpoints || p != tt.possible {
			t.Errorf("%+v is %q, %q, possible: %v", tt, s, f, p)
		}
	}
}

// A guest may be lost only with the QEMU that has it.
func TestMayBeLost(t *testing.T) {
	for _, row := range vmstate.Phases() {
		in := func(party Party, sig unix.Signal) bool {
			b := Blow{Strike: Strike{Party: party, Signal: sig}, Phase: row.Phase}
			return b.mayBeLost()
		}
		inTarget := row.Guest == vmstate.RunsInTarget || row.Guest == vmstate.RunsEither
		if row.Phase == vmstate.Failed {
			continue
		}
		if in(Source, unix.SIGKILL) == inTarget || in(Target, unix.SIGKILL) != inTarget {
			t.Errorf("%s: source %v, target %v", row.Phase, in(Source, unix.SIGKILL), in(Target, unix.SIGKILL))
		}
		if in(Daemon, unix.SIGKILL) || in(Source, unix.SIGSTOP) || in(Target, unix.SIGSTOP) {
			t.Errorf("%s: lost without the death of a QEMU", row.Phase)
		}
	}
}
