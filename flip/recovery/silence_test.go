package recovery_test

import (
	"testing"

	"qlive/flip/recovery"
	"qlive/vmstate"
)

// Only a failure that came of silence is called so, and only for what is certain afterwards.
func TestSilence(t *testing.T) {
	for _, e := range recovery.All() {
		if do := recovery.Decide(e).Do; recovery.Silent(e) && !e.Stranger && do != recovery.GiveUp && do != recovery.LeaveOpen &&
			(e.Ran || e.Target != recovery.Mute) { // a target that is never to run is fenced
			t.Errorf("%+v is decided by %s, and called silent", e, do)
		}
		for _, open := range []bool{false, true} {
			to := recovery.Obvious(e, open)
			if to == recovery.Undecided {
				continue
			}
			decided := e
			decided.Resolve = to
			if recovery.Decide(decided).Do == recovery.Refuse {
				t.Errorf("%+v is obviously the %s's, which cannot be", e, to)
			}
			if e.Resolve != recovery.Undecided || (to == recovery.ToSource) == open || to == recovery.Discard {
				t.Errorf("%+v, open %v: %s", e, open, to)
			}
		}
	}
	if recovery.Silent(recovery.Evidence{Phase: vmstate.Committing, Ran: true, Source: recovery.Stands, Target: recovery.Dead}) {
		t.Error("a dead target is called silent")
	}
	if to := recovery.Obvious(recovery.Evidence{Phase: vmstate.Failed, Ran: true, Source: recovery.Stands, Target: recovery.Dead}, true); to != recovery.Undecided {
		t.Errorf("a guest whose target may have run is obviously the %s's", to)
	}
}
