package survey

import (
	"fmt"
	"slices"
	"strings"

	"qlive/flip/recovery"
	"qlive/internal/qemu"
	"qlive/vmstate"
)

// cutOff is said of a handoff that a daemon has left in the middle, or that a person must decide about.
func (v VM) cutOff(last Entry) Finding {
	target := v.target(last)
	_, sourceLives := v.process(identity(last.Source))
	_, targetLives := v.process(target)
	sides := v.side("source", identity(last.Source)) + ", and " + v.side("target", target)
	switch {
	case last.Phase == vmstate.Failed && last.Resolve != "":
		return Finding{Fail, fmt.Sprintf("handoff %s has failed, and at %s it was decided to resolve it to %s: %s; a daemon that is started does that", last.Migration, when(last.At), last.Resolve, sides), start}
	case last.Phase == vmstate.Failed && last.Silent:
		return Finding{Fail, fmt.Sprintf("handoff %s has failed at %s, since one of the two did not answer: %s; a daemon that is started decides once it does", last.Migration, when(last.At), sides),
			"start the daemon; `qlive resolve " + v.Name + "` shows what can be chosen meanwhile"}
	case last.Phase == vmstate.Failed:
		return Finding{Fail, fmt.Sprintf("handoff %s has failed at %s, and a person must decide who has the guest: %s", last.Migration, when(last.At), sides),
			"start the daemon; `qlive resolve " + v.Name + "` shows what can be chosen"}
	}
	guest, level := whereabouts(last.Phase, sourceLives, targetLives)
	ends, bad := ends(last, sourceLives, targetLives)
	if bad {
		level = Fail
	}
	return Finding{level, fmt.Sprintf("handoff %s was cut off in %s at %s: %s; %s; a daemon that is started %s", last.Migration, last.Phase, when(last.At), guest, sides, ends), start}
}

// whereabouts says what the guest does meanwhile.
func whereabouts(phase vmstate.Phase, sourceLives, targetLives bool) (string, Level) {
	switch runner := phase.Info().Guest; {
	case !sourceLives && !targetLives:
		return "its guest is gone", Fail
	case runner == vmstate.RunsInSource && !sourceLives:
		return "its guest has ended with the source", Fail
	case runner == vmstate.RunsInSource:
		return "its guest goes on in the source", Warn
	case runner == vmstate.RunsInTarget && !targetLives:
		return "its guest has ended with the target", Fail
	case runner == vmstate.RunsInTarget:
		return "its guest goes on in the target", Warn
	case runner == vmstate.RunsNowhere:
		return "its guest stands", Fail
	}
	return "its guest was being let run in the target", Fail
}

// target is the process of the handoff's target. Before it is recorded it is whatever QEMU of the VM is not the source.
func (v VM) target(last Entry) qemu.Identity {
	if last.Target.PID != 0 {
		return identity(last.Target)
	}
	for _, p := range v.QEMUs {
		if p.Identity != identity(last.Source) {
			return p.Identity
		}
	}
	return qemu.Identity{}
}

// ends says what a daemon that is started brings the handoff to, and whether the guest may be lost by then, or a person's to decide about. Each
// thing that it may find the QEMUs doing is tried; that one does not answer is left out, since it may.
func ends(last Entry, sourceLives, targetLives bool) (text string, bad bool) {
	var outcomes, ways []string
	for _, source := range sights(sourceLives, recovery.Runs, recovery.Stands) {
		for _, target := range sights(targetLives, recovery.Loading, recovery.Stands, recovery.Runs) {
			if !likely(last.Phase, source, target) {
				continue
			}
			outcome, because := walk(recovery.Evidence{
				Phase: last.Phase, NeverRan: last.NeverRan, Ran: last.RunState == "running", Restarts: last.Way == vmstate.WayLive,
				Source: source, Target: target,
			})
			bad = bad || outcome == leftToPerson || outcome == lost
			if !slices.Contains(outcomes, outcome) {
				outcomes, ways = append(outcomes, outcome), append(ways, outcome+", because "+because)
			}
		}
	}
	return strings.Join(ways, "; or, as it finds them, "), bad
}

// What can come of a handoff, after "a daemon that is started".
const (
	toSource     = "lets the guest go on in the source"
	toTarget     = "lets the guest go on in the target"
	leftToPerson = "leaves it to a person (`qlive resolve`)"
	lost         = "can only say that the guest is lost"
)

// walk follows the table to an end, each action having its effect, and gives the reason for the first one.
func walk(e recovery.Evidence) (outcome, because string) {
	for range len(recovery.Actions()) {
		row := recovery.Decide(e)
		if because == "" {
			because = row.Because
		}
		switch row.Do {
		case recovery.Fence:
			e.Target = recovery.Dead
		case recovery.GiveBack:
			e.Source = recovery.Runs
		case recovery.WriteOff:
			e.NeverRan = true
		case recovery.Intend:
			e.Phase = vmstate.Committing
		case recovery.RunTarget:
			e.Target = recovery.Runs
		case recovery.Commit:
			e.Phase, e.NeverRan = vmstate.Committed, false
		case recovery.EndSource:
			e.Phase, e.Source = vmstate.Draining, recovery.Dead
		case recovery.Complete:
			e.Phase = vmstate.Completed
		case recovery.RollBack:
			e.Phase, e.NeverRan = vmstate.RolledBack, false
		case recovery.LeaveOpen, recovery.Refuse:
			return leftToPerson, row.Because
		case recovery.GiveUp:
			return lost, row.Because
		case recovery.Nothing, recovery.Settle:
			if outcome = kept(e); outcome == lost {
				because = "the QEMU that had it is dead"
			}
			return outcome, because
		}
	}
	return leftToPerson, because
}

// kept says who has the guest after an end.
func kept(e recovery.Evidence) string {
	switch e.Keeper(false) {
	case recovery.ToSource:
		return toSource
	case recovery.ToTarget:
		return toTarget
	}
	return lost
}

// sights are what a QEMU may be found doing.
func sights(lives bool, all ...recovery.Sight) []recovery.Sight {
	if !lives {
		return []recovery.Sight{recovery.Dead}
	}
	return all
}

// likely leaves out what only somebody else than qlive can have brought about.
func likely(phase vmstate.Phase, source, target recovery.Sight) bool {
	switch phase {
	case vmstate.Planned, vmstate.Preparing, vmstate.Prepared:
		return target == recovery.Loading || target.Gone()
	case vmstate.Switching:
		return target != recovery.Runs
	case vmstate.Committing:
		return source != recovery.Runs
	default:
		return source != recovery.Runs && target != recovery.Loading
	}
}
