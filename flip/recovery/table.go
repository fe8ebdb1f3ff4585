package recovery

import (
	"slices"

	"qlive/vmstate"
)

// Action is the one thing to be done next.
type Action string

// The actions. Each is journalled before it is done, and can be done again after it was cut short.
const (
	Nothing   Action = "nothing"    // it has ended, and nothing is left to do
	Fence     Action = "fence"      // kill the target, and see it dead
	MoveBack  Action = "move_back"  // move what is in the new backing back into the old one, where the source has it
	GiveBack  Action = "give_back"  // end the source's own migration, and give it its run state back
	WriteOff  Action = "write_off"  // record that the target has never run
	Intend    Action = "intend"     // record that the target may run from now on (committing)
	RunTarget Action = "run_target" // tell the target to run
	Commit    Action = "commit"     // record that the guest is in the target (committed)
	EndSource Action = "end_source" // record it (draining), kill the source, and see it dead
	Complete  Action = "complete"   // record the end: completed
	RollBack  Action = "roll_back"  // record the end: rolled_back
	GiveUp    Action = "give_up"    // record the end: failed, with nothing to be decided
	LeaveOpen Action = "leave_open" // record the end: failed, everything as it is, for a person to decide
	Push      Action = "push"       // tell the source once more to let go of the guest, and wait until the target has it or it has come to nothing
	Receive   Action = "receive"    // record it (draining), and wait until all pages have come, or cannot come any more
	Settle    Action = "settle"     // record that what a person has decided is done
	Refuse    Action = "refuse"     // what a person has decided cannot be done as things are
)

// Actions is all of them.
func Actions() []Action {
	return []Action{Nothing, Fence, MoveBack, GiveBack, WriteOff, Intend, RunTarget, Commit, EndSource, Complete, RollBack, GiveUp, LeaveOpen, Push, Receive,
		Settle, Refuse}
}

// Tri is a condition on something that is so or not.
type Tri int

// The conditions.
const (
	Any Tri = iota
	Yes
	No
)

func (t Tri) holds(is bool) bool { return t == Any || is == (t == Yes) }

// Row is a row of the table: what to do if all of its conditions hold. What is empty is no condition.
type Row struct {
	Phases   []vmstate.Phase
	NeverRan Tri
	Resolve  Choice
	Ran      Tri
	Restarts Tri
	Stranger Tri
	Moved    Tri
	Pages    []Pages
	Source   []Sight
	Target   []Sight
	Do       Action
	Because  string // goes into the record and the problem, after "the target …" or "the source …"
}

func (r Row) fits(e Evidence) bool {
	has := func(list []Sight, s Sight) bool { return list == nil || slices.Contains(list, s) }
	return slices.Contains(r.Phases, e.Phase) && r.NeverRan.holds(e.NeverRan) && r.Resolve == e.Resolve && r.Ran.holds(e.Ran) &&
		(r.Pages == nil || slices.Contains(r.Pages, e.Pages)) && r.Restarts.holds(e.Restarts) && r.Stranger.holds(e.Stranger) && r.Moved.holds(e.Moved) &&
		has(r.Source, e.Source) && has(r.Target, e.Target)
}

// Decide is the first row of the table that fits.
func Decide(e Evidence) Row { return DecideBy(Table(), e) }

// DecideBy looks e up in another table. What no row fits is for a person: nothing is touched.
func DecideBy(table []Row, e Evidence) Row {
	for _, row := range table {
		if row.fits(e) {
			return row
		}
	}
	return Row{Do: Refuse, Because: "nobody has thought of this"}
}

// Stuck is what is done when an action has changed nothing.
func Stuck(e Evidence) Row {
	switch {
	case e.Resolve != Undecided:
		return Row{Do: Refuse, Because: "what was decided did not work"}
	case e.Phase.Ended():
		return Row{Do: Nothing, Because: "the handoff has ended"}
	case e.Moved && e.Target.Gone():
		return Row{Do: LeaveOpen, Because: "part of the guest's memory is in its new backing, and could not be moved back"}
	case e.Target.Gone() && (e.Pages == Together || e.Pages == Unmoved) && (e.Phase != vmstate.Committing || e.NeverRan):
		return Row{Do: GiveUp, Because: "the source does not take the guest back"}
	}
	return Row{Do: LeaveOpen, Because: "what was tried did not work"}
}

// MindsStrangers tells whether any decision in phase p depends on who else maps the guest's RAM.
func MindsStrangers(p vmstate.Phase) bool {
	return slices.ContainsFunc(Table(), func(r Row) bool { return r.Stranger != Any && slices.Contains(r.Phases, p) })
}

// gone, alive and the rest are the groups of sights that the table speaks of.
func gone() []Sight    { return []Sight{Absent, Dead} }
func alive() []Sight   { return []Sight{Mute, Runs, Stands, Moving, Loading, Ended} }
func hasRun() []Sight  { return []Sight{Runs, Moving, Ended} } // as a target: more than loading
func goesOn() []Sight  { return []Sight{Runs, Moving} }
func notRuns() []Sight { return []Sight{Mute, Stands, Loading, Ended} }

// Table is the table: for each phase from top to bottom, the first row that fits counts.
func Table() []Row {
	return slices.Concat(beforeRows(), switchingRows(), postcopyRows(), committingRows(), undoRows(), committedRows(), endedRows(), resolveRows())
}

// beforeRows: the source has not been touched.
func beforeRows() []Row {
	before := []vmstate.Phase{vmstate.Planned, vmstate.Preparing, vmstate.Prepared}
	return []Row{
		{Phases: before, Source: gone(), Target: []Sight{Runs, Stands, Moving, Ended}, Do: LeaveOpen,
			Because: "the source is gone, and the target has a guest that it was never handed"},
		{Phases: before, Target: alive(), Do: Fence, Because: "the guest has not been stopped: it stays where it is"},
		{Phases: before, Do: RollBack, Because: "the target is gone and the source was not touched"},
	}
}

// switchingRows: the guest stands, or is about to be stopped; the target has not been told to run.
func switchingRows() []Row {
	switching := []vmstate.Phase{vmstate.Switching}
	return []Row{
		{Phases: switching, Stranger: Yes, Do: LeaveOpen, Because: "a process that qlive does not know maps the guest's RAM"},
		{Phases: switching, Target: hasRun(), Do: LeaveOpen, Because: "the target runs or has run, though qlive has not told it to"},
		{Phases: switching, Source: gone(), Target: []Sight{Stands}, Restarts: No, Do: Intend,
			Because: "the source is dead, and the target has loaded all of the guest as it was stopped"},
		{Phases: switching, Source: gone(), Target: []Sight{Stands, Mute}, Do: LeaveOpen,
			Because: "the source is dead, and it is not certain that the target has the guest as it was last"},
		{Phases: switching, Target: alive(), Do: Fence, Because: "the target has not been told to run: the guest goes back to the source"},
	}
}

// committingRows: the target may have been told to run.
func committingRows() []Row {
	committing := []vmstate.Phase{vmstate.Committing}
	return []Row{
		{Phases: committing, NeverRan: Yes, Stranger: Yes, Do: LeaveOpen, Because: "a process that qlive does not know maps the guest's RAM"},
		{Phases: committing, NeverRan: Yes, Target: hasRun(), Do: LeaveOpen, Because: "the target runs or has run, though it had refused to"},
		{Phases: committing, NeverRan: Yes, Source: gone(), Target: alive(), Do: LeaveOpen, Because: "the source is dead, and the target refuses to run"},
		{Phases: committing, NeverRan: Yes, Target: alive(), Do: Fence, Because: "the target refuses to run: the guest goes back to the source"},

		{Phases: committing, NeverRan: No, Source: goesOn(), Do: LeaveOpen, Because: "the source runs, though the target may"},
		{Phases: committing, NeverRan: No, Target: hasRun(), Do: Commit, Because: "the target has obeyed"},
		{Phases: committing, NeverRan: No, Target: []Sight{Stands}, Ran: No, Do: Commit, Because: "the guest stood before, and the target has all of it: the record is the switch"},
		{Phases: committing, NeverRan: No, Target: []Sight{Stands}, Stranger: Yes, Do: LeaveOpen, Because: "a process that qlive does not know maps the guest's RAM"},
		{Phases: committing, NeverRan: No, Target: []Sight{Stands}, Do: RunTarget, Because: "the target has all of the guest, and both sides had reported success"},
		{Phases: committing, NeverRan: No, Target: []Sight{Loading}, Do: WriteOff, Because: "the target still waits for the guest, so it has never run it"},
		{Phases: committing, NeverRan: No, Target: []Sight{Mute}, Ran: No, Source: notRuns(), Do: Fence, Because: "the target was never to run: the guest stood, and stays in the source"},
		{Phases: committing, NeverRan: No, Target: []Sight{Mute}, Do: LeaveOpen, Because: "the target does not answer, and may run the guest now or later"},
		{Phases: committing, NeverRan: No, Target: gone(), Ran: No, Do: WriteOff, Because: "the guest stood, so the target has never run it"},
		{Phases: committing, NeverRan: No, Target: gone(), Source: gone(), Do: GiveUp, Because: "both QEMUs are dead"},
		{Phases: committing, NeverRan: No, Target: gone(), Do: LeaveOpen, Because: "the target is dead and may have run: the guest's RAM may have moved on from what the source knows"},
	}
}

// undoRows: the target is gone and has never run.
func undoRows() []Row {
	var rows []Row
	for _, p := range []struct {
		phase    vmstate.Phase
		neverRan Tri
	}{{vmstate.Switching, Any}, {vmstate.Committing, Yes}} {
		phases := []vmstate.Phase{p.phase}
		rows = append(rows,
			Row{Phases: phases, NeverRan: p.neverRan, Source: gone(), Do: GiveUp, Because: "both QEMUs are dead"},
			Row{Phases: phases, NeverRan: p.neverRan, Moved: Yes, Source: goesOn(), Do: LeaveOpen, Because: "the source runs, and part of its memory is in the new backing"},
			Row{Phases: phases, NeverRan: p.neverRan, Moved: Yes, Do: MoveBack, Because: "the target is gone, and part of the guest's memory is in the new backing"},
			Row{Phases: phases, NeverRan: p.neverRan, Source: []Sight{Mute}, Do: GiveUp, Because: "only the source can run the guest, and it does not answer"},
			Row{Phases: phases, NeverRan: p.neverRan, Source: []Sight{Loading}, Do: GiveUp, Because: "the source waits for a guest itself"},
			Row{Phases: phases, NeverRan: p.neverRan, Source: []Sight{Moving}, Do: GiveBack, Because: "the target is gone, and the source's migration has to end"},
			Row{Phases: phases, NeverRan: p.neverRan, Source: []Sight{Stands}, Ran: Yes, Do: GiveBack, Because: "the target is gone and has never run"},
			Row{Phases: phases, NeverRan: p.neverRan, Do: RollBack, Because: "the target is gone, and the source has the guest as it was"},
		)
	}
	return rows
}

// committedRows: the guest is in the target; the source never runs again.
func committedRows() []Row {
	committed, draining := []vmstate.Phase{vmstate.Committed}, []vmstate.Phase{vmstate.Draining}
	both := []vmstate.Phase{vmstate.Committed, vmstate.Draining}
	return []Row{
		{Phases: both, Target: []Sight{Loading}, Source: alive(), Do: LeaveOpen, Because: "the target waits for the guest that it is said to have"},
		{Phases: both, Target: gone(), Source: goesOn(), Do: LeaveOpen, Because: "the target is dead, and the source runs, though it must not"},
		{Phases: both, Target: gone(), Ran: No, Source: alive(), Do: LeaveOpen, Because: "the target is dead; the guest stood, and the source still has it as it was"},
		{Phases: both, Source: alive(), Do: EndSource, Because: "the guest is in the target"},
		{Phases: committed, Do: EndSource, Because: "the source is dead already"},
		{Phases: draining, Do: Complete, Because: "the source is dead"},
	}
}

// endedRows: what an end may have left undone.
func endedRows() []Row {
	return []Row{
		{Phases: []vmstate.Phase{vmstate.Completed}, Source: notRuns(), Target: alive(), Do: EndSource, Because: "the guest is in the target"},
		{Phases: []vmstate.Phase{vmstate.RolledBack, vmstate.Aborted}, Source: alive(), Target: alive(), Do: Fence, Because: "the guest is in the source"},
		{Phases: []vmstate.Phase{vmstate.Completed, vmstate.RolledBack, vmstate.Aborted, vmstate.Failed}, Do: Nothing, Because: "the handoff has ended"},
	}
}

// resolveRows: a handoff has failed, and a person has decided.
func resolveRows() []Row {
	failed := []vmstate.Phase{vmstate.Failed}
	return []Row{
		{Phases: failed, Resolve: ToSource, Source: gone(), Do: Refuse, Because: "the source is dead"},
		{Phases: failed, Resolve: ToSource, Source: []Sight{Mute}, Do: Refuse, Because: "the source does not answer"},
		{Phases: failed, Resolve: ToSource, Source: []Sight{Loading}, Do: Refuse, Because: "the source waits for a guest itself"},
		{Phases: failed, Resolve: ToSource, Source: []Sight{Moving, Stands}, Stranger: Yes, Do: Refuse, Because: "a process that qlive does not know maps the guest's RAM"},
		{Phases: failed, Resolve: ToSource, Target: alive(), Do: Fence, Because: "the guest shall be the source's"},
		{Phases: failed, Resolve: ToSource, Moved: Yes, Source: goesOn(), Do: Refuse, Because: "the source runs, and part of its memory is in the new backing"},
		{Phases: failed, Resolve: ToSource, Moved: Yes, Do: MoveBack, Because: "the guest shall be the source's, and part of its memory is in the new backing"},
		{Phases: failed, Resolve: ToSource, Source: []Sight{Moving}, Do: GiveBack, Because: "the guest shall be the source's"},
		{Phases: failed, Resolve: ToSource, Source: []Sight{Stands}, Ran: Yes, Do: GiveBack, Because: "the guest shall be the source's"},
		{Phases: failed, Resolve: ToSource, Do: Settle, Because: "the source has the guest, and the target is gone"},

		{Phases: failed, Resolve: ToTarget, Target: gone(), Do: Refuse, Because: "the target is dead"},
		{Phases: failed, Resolve: ToTarget, Target: []Sight{Mute}, Do: Refuse, Because: "the target does not answer"},
		{Phases: failed, Resolve: ToTarget, Target: []Sight{Loading}, Do: Refuse, Because: "the target was never given the guest"},
		{Phases: failed, Resolve: ToTarget, Target: []Sight{Stands}, Stranger: Yes, Do: Refuse, Because: "a process that qlive does not know maps the guest's RAM"},
		{Phases: failed, Resolve: ToTarget, Source: alive(), Do: EndSource, Because: "the guest shall be the target's"},
		{Phases: failed, Resolve: ToTarget, Target: []Sight{Stands}, Ran: Yes, Do: RunTarget, Because: "the guest shall be the target's"},
		{Phases: failed, Resolve: ToTarget, Do: Settle, Because: "the target has the guest, and the source is gone"},

		{Phases: failed, Resolve: Discard, Target: alive(), Do: Fence, Because: "the guest shall be nobody's"},
		{Phases: failed, Resolve: Discard, Source: alive(), Do: EndSource, Because: "the guest shall be nobody's"},
		{Phases: failed, Resolve: Discard, Do: Settle, Because: "both QEMUs are dead"},
	}
}
