package recovery

import "qlive/vmstate"

// Silent tells whether a handoff that fails with this evidence does so only because somebody did not answer: once he does, it can be decided
// after all.
func Silent(e Evidence) bool {
	switch {
	case e.Pages != Together:
		return false
	case e.Phase == vmstate.Switching, e.Phase == vmstate.Committing && e.NeverRan:
		return e.Target.Gone() && e.Source == Mute && !e.Moved
	case e.Phase == vmstate.Committing:
		return e.Target == Mute && e.Source != Runs && e.Source != Moving
	}
	return false
}

// Obvious is what a person could only decide of a handoff that has failed out of silence, now that the silent one has spoken. Open says, as the record
// does, whether the target may have run.
//
//   - It was the source, behind the fence: it has the guest, and nobody else could; in mode postcopy, too, if it has not let go of it.
//   - It was the target, which had been told to run: whether it has obeyed or stands, the guest is the target's, and the source is ended first.
//
// Anything else stays undecided.
func Obvious(e Evidence, open bool) Choice {
	switch {
	case e.Phase != vmstate.Failed || e.Resolve != Undecided || e.Stranger || e.Pages != Together && (open || e.Pages != Unmoved):
		return Undecided
	case !open && e.Target.Gone() && !e.Moved && (e.Source == Runs || e.Source == Stands || e.Source == Moving || e.Source == Ended):
		return ToSource
	case open && (e.Target == Runs || e.Target == Stands || e.Target == Ended) && e.Source != Runs && e.Source != Moving:
		return ToTarget
	}
	return Undecided
}
