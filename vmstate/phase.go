package vmstate

import (
	"fmt"
	"slices"
	"strings"
)

// Phase is where a handoff stands.
type Phase string

// The phases of a handoff, in order, and its other ends.
const (
	Planned    Phase = "planned"
	Preparing  Phase = "preparing"
	Prepared   Phase = "prepared"
	Switching  Phase = "switching"
	Committing Phase = "committing"
	Committed  Phase = "committed"
	Draining   Phase = "draining"
	Completed  Phase = "completed"
	RolledBack Phase = "rolled_back"
	Aborted    Phase = "cancelled"
	Failed     Phase = "failed"
)

// Runner says which QEMU has, or may give, the guest its vCPUs.
type Runner string

// Who runs the guest.
const (
	RunsInSource Runner = "source"  // as it was before the handoff began
	RunsNowhere  Runner = "stopped" // stopped in the source, being loaded by the target
	RunsEither   Runner = "target?" // the target has been told to run it, its answer is not there yet
	RunsInTarget Runner = "target"
	RunsUnknown  Runner = "unknown" // a person must decide
)

// Act is something that a handoff does to one of the two QEMUs on its way forward.
type Act string

// The acts. Each is done in the phases whose row has it, and in no other.
const (
	ActStartTarget Act = "start the target"
	ActStopSource  Act = "stop the source" // or let QEMU stop it
	ActMoveMemory  Act = "move the memory" // into another backing, where that was asked for
	ActLoadTarget  Act = "load the target"
	ActRunTarget   Act = "run the target"
	ActEndSource   Act = "end the source"
)

// PhaseInfo is a row of the table of phases.
type PhaseInfo struct {
	Phase Phase
	Guest Runner
	Does  string  // what happens in it
	Undo  string  // how it is undone, empty where it cannot be
	Acts  []Act   // what may be done in it, in this order, once its record is written
	Next  []Phase // what may follow, the way forward first; none where it is an end
}

// Phases is the table that the handoff runs on: one row a phase. Before Committing every phase can be
// undone into RolledBack; from Committing on the source never runs again, unless it is proved that the target never ran.
func Phases() []PhaseInfo {
	return []PhaseInfo{
		{Planned, RunsInSource, "probe the target binary, choose mode and way, build its command line, check", "forget",
			nil, []Phase{Preparing, RolledBack, Aborted, Failed}},
		{Preparing, RunsInSource, "start the target on the same RAM, verify it, send what is not shared, populate", "kill the target, wait for its death",
			[]Act{ActStartTarget}, []Phase{Prepared, RolledBack, Aborted, Failed}},
		{Prepared, RunsInSource, "wait for `continue` if the migration holds", "kill the target, wait for its death",
			nil, []Phase{Switching, RolledBack, Aborted, Failed}},
		{Switching, RunsNowhere, "stop the source, move the RAM if its backing changes, move the device state, the target loads it", "kill the target, wait for its death, move the RAM back, give the source its run state back",
			[]Act{ActStopSource, ActMoveMemory, ActLoadTarget}, []Phase{Committing, RolledBack, Failed}},
		// RolledBack only where it is proved that the target never ran: QEMU refuses to run it, or dies without having said RESUME.
		{Committing, RunsEither, "both sides have reported success: run the target", "only if the target has provably not run: kill it, wait for its death, run the source",
			[]Act{ActRunTarget}, []Phase{Committed, RolledBack, Failed}},
		{Committed, RunsInTarget, "the target's answer has been seen", "",
			nil, []Phase{Draining, Failed}}, // Failed: the guest stood, and the target has died before the source was ended
		{Draining, RunsInTarget, "end the source, wait for its death, release what it held", "",
			[]Act{ActEndSource}, []Phase{Completed, Failed}},
		{Completed, RunsInTarget, "the guest is in the target", "", nil, nil},
		{RolledBack, RunsInSource, "the guest is in the source, as it was", "", nil, nil},
		{Aborted, RunsInSource, "cancelled on request; the guest is in the source, as it was", "", nil, nil},
		{Failed, RunsUnknown, "neither: a person is needed", "", nil, nil},
	}
}

// Info is p's row; the zero row if p is no phase.
func (p Phase) Info() PhaseInfo {
	for _, row := range Phases() {
		if row.Phase == p {
			return row
		}
	}
	return PhaseInfo{}
}

// CanBecome tells whether a handoff in phase p may go on to phase next.
func (p Phase) CanBecome(next Phase) bool { return slices.Contains(p.Info().Next, next) }

// May tells whether a handoff in phase p may do a.
func (p Phase) May(a Act) bool { return slices.Contains(p.Info().Acts, a) }

// Ended tells whether p is an end.
func (p Phase) Ended() bool { return p.Info().Phase == p && len(p.Info().Next) == 0 }

// Revocable tells whether a handoff in phase p can still be cancelled on request.
func (p Phase) Revocable() bool { return p.CanBecome(Aborted) }

// Undoable tells whether a handoff in phase p may still end with the guest in the source.
func (p Phase) Undoable() bool { return p.CanBecome(RolledBack) }

// PhaseDiagram draws the table as a Mermaid state diagram.
func PhaseDiagram() string {
	var b strings.Builder
	b.WriteString("stateDiagram-v2\n    [*] --> planned\n")
	for _, row := range Phases() {
		for _, next := range row.Next {
			fmt.Fprintf(&b, "    %s --> %s\n", row.Phase, next)
		}
		if len(row.Next) == 0 {
			fmt.Fprintf(&b, "    %s --> [*]\n", row.Phase)
		}
	}
	return b.String()
}
