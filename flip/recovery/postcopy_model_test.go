package recovery_test

import (
	"fmt"
	"testing"

	"qlive/flip/recovery"
	"qlive/vmstate"
)

// A model of mode postcopy from the commitment on: a source that sends pages and frees them, a target that gets them, a daemon that has come after
// another and acts by the table, and somebody who kills QEMUs. All orders of their steps are walked.

// feeder is how far the source is.
type feeder string

const (
	begun    feeder = "begun"     // its migration is set up, and the guest runs in it
	sending  feeder = "sending"   // it has let go of the guest
	sentAll  feeder = "sent all"  // and has nothing more
	keptIt   feeder = "kept it"   // its migration has failed before it let go: the guest runs in it
	cutOff   feeder = "cut off"   // its migration has broken after it let go
	deadFeed feeder = "dead feed" // the process has ended
	emptied  feeder = "emptied"   // all that it had has gone to a daemon that took the target's place, and is no more
	returned feeder = "returned"  // it has got everything back from a daemon
)

// scene is all of it.
type scene struct {
	phase    vmstate.Phase
	neverRan bool
	sent     bool // the record says that the daemon was about to bring back what had gone
	source   feeder
	told     bool // to switch
	target   recovery.Sight
	all      bool // the target has all pages
	kills    int  // that are left
	lost     bool // truth: neither has all, and no more can come
	did      recovery.Action
	was      recovery.Evidence
}

// seen is the evidence, as flip makes it of what the two say.
func (s scene) seen() recovery.Evidence {
	e := recovery.Evidence{Phase: s.phase, NeverRan: s.neverRan, Ran: true, Restarts: true, Target: s.target}
	e.Source = map[feeder]recovery.Sight{begun: recovery.Moving, sending: recovery.Moving, sentAll: recovery.Stands, keptIt: recovery.Runs, cutOff: recovery.Moving, deadFeed: recovery.Dead,
		emptied: recovery.Stands, returned: recovery.Stands}[s.source]
	switch {
	case s.sent && s.phase == vmstate.Committing:
		e.Pages = recovery.Cut
	case s.neverRan, s.phase == vmstate.Completed, s.phase == vmstate.RolledBack:
	case s.all || s.source == sentAll:
	case s.source == deadFeed, s.source == cutOff, s.source == sending && s.target.Gone():
		e.Pages = recovery.Cut
	case s.source == sending:
		e.Pages = recovery.Coming
	default:
		e.Pages = recovery.Unmoved
	}
	return e
}

// alone gives what the two QEMUs may do next by themselves.
func (s scene) alone() (next []scene) {
	step := func(change func(*scene)) {
		n := s
		change(&n)
		n.did = ""
		next = append(next, n)
	}
	switch {
	case s.source == begun && s.told && !s.target.Gone():
		step(func(n *scene) { n.source = sending })
	case s.source == begun && s.target.Gone():
		step(func(n *scene) { n.source = keptIt })
	case s.source == sending && s.target == recovery.Loading:
		step(func(n *scene) { n.target = recovery.Runs })
	case s.source == sending && s.target == recovery.Runs:
		step(func(n *scene) { n.source, n.all = sentAll, true })
	case s.source == sending && s.target.Gone():
		step(func(n *scene) { n.source, n.lost = cutOff, true })
	}
	return next
}

// killed gives what somebody may do.
func (s scene) killed() (next []scene) {
	if s.kills == 0 {
		return nil
	}
	if s.source != deadFeed {
		n := s
		n.lost = n.lost || n.source == sending || n.source == begun || n.source == keptIt || n.source == returned
		n.source, n.kills, n.did = deadFeed, s.kills-1, ""
		next = append(next, n)
	}
	if !s.target.Gone() {
		n := s
		n.lost = n.lost || n.source == sending || n.all
		n.target, n.kills, n.did = recovery.Dead, s.kills-1, ""
		next = append(next, n)
	}
	return next
}

// daemon acts once, and says what is wrong with that. A wait ends when the two have done something.
func (s scene) daemon(table []recovery.Row) (scene, string) {
	e := s.seen()
	row := recovery.DecideBy(table, e)
	waits := row.Do == recovery.Push || row.Do == recovery.Receive
	if row.Do == s.did && e == s.was {
		if waits && len(s.alone()) > 0 {
			return s, ""
		}
		row = recovery.Stuck(e)
	}
	s.did, s.was = row.Do, e
	kept := s.source == keptIt || s.source == begun && !s.told
	switch row.Do {
	case recovery.Push:
		s.told = true
	case recovery.Receive, recovery.Commit:
		if row.Do == recovery.Commit {
			s.phase = vmstate.Committed
		} else if s.phase == vmstate.Committed {
			s.phase = vmstate.Draining
		}
	case recovery.WriteOff:
		if !kept && s.source != deadFeed && !(s.source == begun && s.target.Gone()) {
			return s, "a source that lets go is written off as one that kept its guest"
		}
		s.neverRan = true
	case recovery.Fence:
		if s.all || s.source == sending {
			return s, "the target is killed while it has some of the guest"
		}
		s.target = recovery.Dead
	case recovery.GiveBack:
		if s.source != keptIt && s.source != begun && s.source != returned {
			return s, "a source that has let go gets its guest back"
		}
		s.source = keptIt
	case recovery.EndSource:
		if !s.all && s.source != deadFeed {
			return s, "the source is ended before all pages have come"
		}
		s.source, s.phase = deadFeed, vmstate.Draining
	case recovery.Complete:
		if !s.all {
			return s, "completed without all pages"
		}
		s.phase = vmstate.Completed
	case recovery.RollBack:
		if s.source != keptIt {
			return s, "rolled back, and the source has not kept the guest"
		}
		s.phase = vmstate.RolledBack
	case recovery.GiveUp, recovery.LeaveOpen:
		if !s.lost {
			return s, fmt.Sprintf("failed (%s), though nothing is lost", row.Because)
		}
		s.phase = vmstate.Failed
	default:
		return s, fmt.Sprintf("%s because %s", row.Do, row.Because)
	}
	return s, ""
}

// walkPostcopy walks all that can come, and gives how often it ends how, and the first thing that is wrong.
func walkPostcopy(table []recovery.Row) (ends map[vmstate.Phase]int, states int, wrong string) {
	seen := map[scene]bool{}
	ends = map[vmstate.Phase]int{}
	var walk func(scene)
	walk = func(s scene) {
		if seen[s] || wrong != "" {
			return
		}
		seen[s] = true
		if s.phase.Ended() {
			ends[s.phase]++
			return
		}
		n, fault := s.daemon(table)
		moves := append(s.alone(), s.killed()...)
		switch {
		case fault != "":
			wrong = fmt.Sprintf("%s: %+v", fault, s)
		case n == s && len(moves) == 0:
			wrong = fmt.Sprintf("nothing can happen any more: %+v", s)
		case n != s:
			moves = append(moves, n)
		}
		for _, m := range moves {
			walk(m)
		}
	}
	for kills := range 3 {
		for _, told := range []bool{false, true} {
			walk(scene{phase: vmstate.Committing, source: begun, told: told, target: recovery.Loading, kills: kills})
		}
		for _, source := range []feeder{emptied, cutOff} {
			walk(scene{phase: vmstate.Committing, neverRan: true, sent: true, source: source, target: recovery.Dead, lost: true, kills: kills})
		}
		walk(scene{phase: vmstate.Committing, neverRan: true, source: returned, target: recovery.Dead, kills: kills})
		for _, phase := range []vmstate.Phase{vmstate.Committed, vmstate.Draining} {
			walk(scene{phase: phase, source: sending, told: true, target: recovery.Runs, kills: kills})
		}
	}
	return ends, len(seen), wrong
}

// Whatever order things come in: nobody is ended who has something of the guest that no other has, a guest of which nobody has been killed arrives, and
// the daemon comes to an end.
func TestPostcopyModel(t *testing.T) {
	ends, states, wrong := walkPostcopy(recovery.Table())
	if wrong != "" {
		t.Error(wrong)
	}
	if ends[vmstate.Completed] == 0 || ends[vmstate.RolledBack] == 0 || ends[vmstate.Failed] == 0 || states < 100 {
		t.Errorf("walked %d states, ends %v", states, ends)
	}
}

// The model notices mistakes in the table.
func TestPostcopyModelNotices(t *testing.T) {
	for reason, do := range map[string]recovery.Action{
		"the guest's pages have not all come":                                                     recovery.EndSource,
		"the source may have been told to let go of the guest, and then cannot be told otherwise": recovery.WriteOff,
		"the target is about to have the guest":                                                   recovery.Fence,
		"neither QEMU has all of the guest, and no more of it can come":                           recovery.Complete,
		"the target is dead, and with it what had come of the guest":                              recovery.GiveBack,
		"the target has the guest, and its pages follow":                                          recovery.LeaveOpen,
	} {
		table := recovery.Table()
		found := false
		for i := range table {
			if table[i].Because == reason && table[i].Resolve == recovery.Undecided {
				table[i].Do, found = do, true
			}
		}
		if _, _, wrong := walkPostcopy(table); !found || wrong == "" {
			t.Errorf("%q where %s is not noticed (found: %v)", do, reason, found)
		}
	}
}
