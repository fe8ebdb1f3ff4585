package recovery_test

import (
	"slices"

	"qlive/flip/recovery"
	"qlive/vmstate"
)

// The model: a source, a target, a daemon and its journal, as one state, and every step that any of them may take next. The way forward is
// read from a table of phases, what a daemon does after it was killed or has failed from a table of decisions: those that the code runs on.
//
// A command is an order in a QEMU's queue. It may be executed at once or late, its answer may come or be lost; when a daemon dies, what it has sent
// and QEMU has not begun is executed or dropped, and a new connection is answered only when either has happened.

// order is a command to a QEMU.
type order uint8

const (
	none order = iota
	stop
	cont
	migrate
)

// queue is the orders that a QEMU has been sent and has not executed, oldest first.
type queue [3]order

func (q queue) pushed(o order) queue {
	for i := range q {
		if q[i] == none {
			q[i] = o
			return q
		}
	}
	panic("the queue is too short")
}

func (q queue) popped() queue { return queue{q[1], q[2], none} }

// qemu is one of the two.
type qemu struct {
	is    sight
	hung  bool
	queue queue
	stale bool // what is queued came over a connection that has ended
}

func (q qemu) alive() bool { return q.is != dead && q.is != absent }
func (q qemu) works() bool { return q.alive() && !q.hung }

// sight is recovery.Sight as a number: there are many states.
type sight uint8

const (
	absent sight = iota
	dead
	runs
	stands
	moving
	loading
	ended
)

func (s sight) seen() recovery.Sight {
	return []recovery.Sight{recovery.Absent, recovery.Dead, recovery.Runs, recovery.Stands, recovery.Moving, recovery.Loading, recovery.Ended}[s]
}

// mode is what the daemon does.
type mode uint8

const (
	up      mode = iota // hands over
	waiting             // hands over, and waits for an answer
	down                // is dead
	looking             // recovers: about to look
	acting              // recovers: has decided
	asking              // recovers: waits for an answer
	idle                // has nothing to do
)

// answer is what an order has come to.
type answer uint8

const (
	noAnswer answer = iota
	obeyed
	refused
)

// state is all of it.
type state struct {
	ran     bool        // constant: the guest ran
	way     vmstate.Way // constant
	rehouse bool        // constant: the guest's memory is moved into another backing

	source, target qemu
	streamed       bool // the target has, or will have, all of the guest that was saved
	targetRan      bool // truth: the target has run it
	movedOn        bool // truth: the source has run it since it was saved
	away           bool // truth, and in the ledger: some of the memory is not where the source has it
	hurt           bool // somebody killed a QEMU, or let it hang

	phase                uint8 // last record
	neverRan, open       bool
	silent               bool
	resolve              recovery.Choice
	settled              bool
	toSource, toTarget   bool // a person has once decided so
	mode                 mode
	pc                   uint8 // of the way forward
	told                 bool
	knows                bool // that the target never ran, whether or not that is recorded
	answer               answer
	do                   recovery.Action // decided
	was                  look            // what the last decision rested on
	muteSource, muteTarg bool            // have let a deadline pass in this recovery
}

// look is an evidence, as far as it differs from one look to the next.
type look struct {
	source, target recovery.Sight
	phase          uint8
	neverRan       bool
	moved          bool
}

// edge is a step to another state. A fault is a step that need not happen.
type edge struct {
	name  string
	fault bool
	to    state
}

// model is the tables that the states move by.
type model struct {
	table  []recovery.Row
	phases []vmstate.PhaseInfo
	// skipWriteOff leaves out the record that the target never ran, before a refusal is undone.
	skipWriteOff bool
	// alwaysSilent takes every failure for one that is over once everybody answers.
	alwaysSilent bool
}

func (m *model) info(s state) vmstate.PhaseInfo { return m.phases[s.phase] }

func (m *model) index(p vmstate.Phase) uint8 {
	return uint8(slices.IndexFunc(m.phases, func(i vmstate.PhaseInfo) bool { return i.Phase == p }))
}

// op is a step of the way forward: a record, or an act.
type op struct {
	record vmstate.Phase
	act    vmstate.Act
}

// program is the way forward: from planned on, each phase's acts, and then the record of the first phase that may follow.
func (m *model) program() []op {
	var ops []op
	for i := m.phases[0]; ; i = m.phases[m.index(i.Next[0])] {
		for _, a := range i.Acts {
			ops = append(ops, op{act: a})
		}
		if len(i.Next) == 0 {
			return ops
		}
		ops = append(ops, op{record: i.Next[0]})
	}
}

// next gives every step that can be taken in s.
func (m *model) next(s state) []edge {
	edges := slices.Concat(m.faults(s), m.world(s))
	switch s.mode {
	case up:
		edges = append(edges, m.forward(s)...)
	case waiting:
		edges = append(edges, m.await(s)...)
	case down:
		s.mode = looking
		edges = append(edges, edge{"a new daemon starts", false, s})
	case looking:
		edges = append(edges, m.look(s)...)
	case acting:
		edges = append(edges, m.act(s)...)
	case asking:
		edges = append(edges, m.awaitRecovery(s)...)
	case idle:
		edges = append(edges, m.person(s)...)
	}
	return edges
}

// faults: anything may be killed or hang at any time, and wake again.
func (m *model) faults(s state) []edge {
	var edges []edge
	if s.mode != down {
		to := s
		to.mode, to.told, to.knows, to.answer, to.do, to.was, to.muteSource, to.muteTarg = down, false, false, noAnswer, "", look{}, false, false
		to.source.stale, to.target.stale = to.source.queue[0] != none, to.target.queue[0] != none
		edges = append(edges, edge{"the daemon is killed", true, to})
	}
	for _, who := range []string{"source", "target"} {
		q := s.side(who)
		if !q.alive() {
			continue
		}
		to := s
		*to.at(who) = qemu{is: dead}
		to.hurt = true
		edges = append(edges, edge{"the " + who + " is killed", true, to})
		to = s
		to.at(who).hung = !q.hung
		to.hurt = true
		edges = append(edges, edge{"the " + who + " hangs, or wakes", true, to})
	}
	return edges
}

func (s *state) at(who string) *qemu {
	if who == "source" {
		return &s.source
	}
	return &s.target
}

func (s state) side(who string) qemu { return *s.at(who) }

// world is what the QEMUs do by themselves.
func (m *model) world(s state) []edge {
	edges := m.migration(s)
	for _, who := range []string{"source", "target"} {
		q := s.side(who)
		if !q.works() {
			continue
		}
		if q.is == runs {
			to := s
			to.at(who).is = ended
			edges = append(edges, edge{"the guest ends in the " + who, true, to})
		}
		if q.queue[0] == none {
			continue
		}
		if q.stale {
			to := s
			to.at(who).queue, to.at(who).stale = queue{}, false
			edges = append(edges, edge{"the " + who + " drops what a dead daemon has asked", false, to})
		}
		edges = append(edges, m.execute(s, who)...)
	}
	return edges
}

// execute executes the oldest order of who.
func (m *model) execute(s state, who string) []edge {
	to := s
	q := to.at(who)
	o := q.queue[0]
	q.queue = q.queue.popped()
	if q.queue[0] == none {
		if !q.stale { // whoever asked waits for the answer to what he has asked last
			to.answer = obeyed
		}
		q.stale = false
	}
	switch {
	case o == stop && q.is == runs:
		q.is = stands
	case o == migrate && (q.is == runs || q.is == stands):
		q.is = moving
	case o == cont && q.is == stands:
		no := to // its images are held by somebody else; a guest that is given back gets them
		if to.answer == obeyed {
			no.answer = refused
		}
		to.start(who)
		if who == "target" && !s.targetRan {
			return []edge{{"the target runs the guest", false, to}, {"the target refuses to run the guest", true, no}}
		}
	case o == cont && q.is == moving && to.answer == obeyed:
		to.answer = refused
	}
	return []edge{{"the " + who + " obeys", false, to}}
}

// start lets who run the guest.
func (s *state) start(who string) {
	s.at(who).is = runs
	if who == "target" {
		s.targetRan = true
		return
	}
	if s.streamed {
		s.movedOn = true
	}
}

// migration is what happens between the two while the guest is moved.
func (m *model) migration(s state) []edge {
	var edges []edge
	if s.source.is == moving && s.source.works() {
		if s.target.is == loading && s.target.works() {
			to := s
			to.source.is, to.target.is, to.streamed = stands, stands, true
			edges = append(edges, edge{"the migration completes", false, to})
		}
		to := s
		to.source.is = stands
		if s.way == vmstate.WayLive {
			to.start("source")
		}
		// A target that is well may have loaded all, and the source not know.
		edges = append(edges, edge{"the migration fails", s.target.works(), to})
		if s.target.is == loading && s.target.works() {
			to.target.is, to.streamed = stands, true
			to.movedOn = to.movedOn || s.way == vmstate.WayLive
			edges = append(edges, edge{"the migration fails at its very end", true, to})
		}
	}
	if s.target.is == loading && s.target.works() {
		to := s
		if s.streamed {
			to.target.is = stands
			edges = append(edges, edge{"the target has loaded the guest", false, to})
		}
		to.target = qemu{is: dead}
		edges = append(edges, edge{"the target cannot load the guest", true, to})
	}
	return edges
}
