package recovery

import (
	"slices"

	"qlive/vmstate"
)

// Sight is what is seen of one of the two QEMUs.
type Sight string

// What can be seen. A QEMU is dead only if its pidfd, or the start time behind its pid, says so.
const (
	Absent  Sight = "absent"  // never started, as far as anything tells
	Dead    Sight = "dead"    // the process has ended
	Mute    Sight = "mute"    // alive, and does not answer its monitor in time
	Runs    Sight = "runs"    // its vCPUs run
	Stands  Sight = "stands"  // stopped, and obeys: paused, prelaunch, postmigrate
	Moving  Sight = "moving"  // in the middle of QEMU's own migration: what it does with its guest is not decided
	Loading Sight = "loading" // waits for a stream, or loads one: it has never run
	Ended   Sight = "ended"   // the guest itself has stopped: shutdown, panicked, an I/O error, suspended
)

// Sights is all of them.
func Sights() []Sight { return []Sight{Absent, Dead, Mute, Runs, Stands, Moving, Loading, Ended} }

// Gone tells whether there is no process that could do anything.
func (s Sight) Gone() bool { return s == Absent || s == Dead }

// Pages says where a guest's RAM is in the middle of mode postcopy, in which it follows the guest.
type Pages string

// Where RAM can be. In other modes, and before and after the moving of pages, it is all in one place.
const (
	Together Pages = ""        // the one that runs the guest has all of it
	Unmoved  Pages = "unmoved" // the switch has been committed to, and the source has not let go of the guest
	Coming   Pages = "coming"  // the source has let go, and its pages follow, or nobody can say
	Cut      Pages = "cut"     // neither of the two has all of it, and no more can come
)

// AllPages is all of them.
func AllPages() []Pages { return []Pages{Together, Unmoved, Coming, Cut} }

// follow tells whether pages can be anywhere else than together in phase p.
func follow(p vmstate.Phase) bool {
	return p == vmstate.Committing || p == vmstate.Committed || p == vmstate.Draining || p == vmstate.Failed
}

// Choice is what a person has decided of a VM that nobody else could decide of.
type Choice string

// The choices of `qlive resolve VM --to …`.
const (
	Undecided Choice = ""
	ToSource  Choice = "source"
	ToTarget  Choice = "target"
	Discard   Choice = "discard"
)

// Choices is all of them, the empty one included.
func Choices() []Choice { return []Choice{Undecided, ToSource, ToTarget, Discard} }

// Evidence is all that a decision rests on.
type Evidence struct {
	Phase    vmstate.Phase `json:"phase"`     // of the last record
	NeverRan bool          `json:"never_ran"` // the last record says that the target, though committed to, has never run
	Resolve  Choice        `json:"resolve,omitempty"`
	Ran      bool          `json:"ran"`      // the guest ran before it was stopped: it shall run again
	Restarts bool          `json:"restarts"` // a source whose migration fails starts the guest by itself (way live)
	Source   Sight         `json:"source"`
	Target   Sight         `json:"target"`
	Pages    Pages         `json:"pages,omitempty"`
	Stranger bool          `json:"stranger"` // a process that is neither of the two maps the guest's RAM
	Moved    bool          `json:"moved"`    // some of the guest's RAM is in its new backing, and not where the source has it
}

// Valid tells whether e can be at all, whoever has lied: the daemon's own records and every combination of sights.
func (e Evidence) Valid() bool {
	return e.Phase.Info().Phase == e.Phase &&
		(!e.NeverRan || e.Phase == vmstate.Committing) &&
		(e.Resolve == Undecided || e.Phase == vmstate.Failed) &&
		(e.Pages == Together || follow(e.Phase) && !e.Moved) // RAM is moved by qlive or by QEMU
}

// Keeper says which of the two has the guest once e.Phase is an end: [ToSource], [ToTarget], or [Undecided] for neither. Of a
// handoff that has failed open says whether a person must decide.
func (e Evidence) Keeper(open bool) Choice {
	has := Undecided
	switch {
	case e.Phase == vmstate.Completed, e.Resolve == ToTarget:
		has = ToTarget
	case e.Phase == vmstate.RolledBack, e.Phase == vmstate.Aborted, e.Resolve == ToSource:
		has = ToSource
	case e.Phase == vmstate.Failed && e.Resolve == Undecided && !open && e.Target.Gone() && (e.Pages == Together || e.Pages == Unmoved):
		has = ToSource // the only one that could run it, though it does not answer
	}
	if has == ToSource && e.Source.Gone() || has == ToTarget && e.Target.Gone() {
		return Undecided
	}
	return has
}

// All gives every evidence that can be.
func All() []Evidence {
	var all []Evidence
	for _, row := range vmstate.Phases() {
		for _, e := range variants(row.Phase) {
			for _, e.Source = range Sights() {
				for _, e.Target = range Sights() {
					all = append(all, e)
				}
			}
		}
	}
	return all
}

// variants gives every evidence of a phase, without sights, on which nothing of what can be depends.
func variants(p vmstate.Phase) []Evidence {
	var all []Evidence
	for bits := range 32 {
		for _, choice := range Choices() {
			for _, pages := range AllPages() {
				all = append(all, Evidence{Phase: p, NeverRan: bits&1 != 0, Ran: bits&2 != 0, Restarts: bits&4 != 0, Stranger: bits&8 != 0, Moved: bits&16 != 0,
					Resolve: choice, Pages: pages})
			}
		}
	}
	return slices.DeleteFunc(all, func(e Evidence) bool { return !e.Valid() })
}
