package recovery_test

import (
	"fmt"
	"slices"

	"qlive/flip/recovery"
	"qlive/vmstate"
)

// forward is the daemon as it hands over: what it does next, or what makes it give up.
func (m *model) forward(s state) []edge {
	o := m.program()[s.pc]
	if o.record != "" {
		return m.recordNext(s, o.record)
	}
	to := s
	to.answer = noAnswer
	switch o.act {
	case vmstate.ActStartTarget:
		failed := s
		s.target.is = loading
		return []edge{m.on(s, "the target is started"), m.abandon(failed, "no target can be started", false), m.abandon(s, "the target is no good", false)}
	case vmstate.ActStopSource:
		if !s.ran || s.way == vmstate.WayLive {
			return []edge{m.on(s, "nothing is to be stopped")}
		}
		to.source.queue = s.source.queue.pushed(stop)
	case vmstate.ActMoveMemory:
		if !s.rehouse {
			return []edge{m.on(s, "the memory stays")}
		}
		s.away = true
		return []edge{m.on(s, "the memory is moved"), m.abandon(s, "the memory cannot be moved", false)}
	case vmstate.ActLoadTarget:
		if s.way == vmstate.WayDeviceState {
			if !s.source.works() || s.source.is != stands && s.source.is != runs {
				return []edge{asItIs(m.abandon(s, "the devices cannot be saved", false))}
			}
			to.streamed, to.movedOn = true, s.source.is == runs // which would be a save of what is changing
			break
		}
		to.source.queue = s.source.queue.pushed(migrate)
	case vmstate.ActRunTarget:
		if !s.ran {
			return []edge{m.on(s, "the guest stood, and stands")}
		}
		to.target.queue, to.told = s.target.queue.pushed(cont), true
	case vmstate.ActEndSource:
		s.source = qemu{is: dead}
		return []edge{m.on(s, "the source is ended")}
	}
	to.mode = waiting
	return []edge{{fmt.Sprintf("asked to %s", o.act), false, to}}
}

// on goes on to the next step.
func (m *model) on(s state, name string) edge {
	s.pc++
	s.mode, s.answer = up, noAnswer
	return edge{name, false, s}
}

// recordNext writes a phase down; until the guest is in the target a journal that cannot be written ends the handoff.
func (m *model) recordNext(s state, p vmstate.Phase) []edge {
	info := m.info(s)
	if !slices.Contains(info.Next, p) {
		panic(fmt.Sprintf("%s cannot become %s", info.Phase, p))
	}
	var edges []edge
	if p != vmstate.Committed && slices.Contains(info.Next, vmstate.RolledBack) {
		edges = append(edges, m.abandon(s, "the journal is full", false))
	}
	s.phase = m.index(p)
	e := m.on(s, "recorded "+string(p))
	if p.Ended() {
		e.to.mode = idle
	}
	return append(edges, e)
}

// abandon is Handoff.abandon: undo, unless the target may have run. Proof says that it has not, though it was told to.
func (m *model) abandon(s state, why string, proof bool) edge {
	if m.info(s).Phase == vmstate.Committing {
		if s.told && !proof {
			s.phase, s.open, s.silent, s.mode = m.index(vmstate.Failed), true, s.target.alive(), idle
			return edge{why + ", and it may have run", true, s}
		}
		s.knows, s.neverRan = true, !m.skipWriteOff
	}
	s.mode, s.answer = looking, noAnswer
	return edge{why, true, s}
}

// await is the daemon as it waits for what it has asked for.
func (m *model) await(s state) []edge {
	late := func(q qemu, why string) edge {
		e := m.abandon(s, why, false)
		e.fault = q.works()
		e.to.hurt = true // somebody was too slow
		return e
	}
	act := m.program()[s.pc].act
	switch {
	case act == vmstate.ActStopSource && s.answer == obeyed:
		return []edge{m.on(s, "the source has stopped")}
	case act == vmstate.ActStopSource:
		return []edge{late(s.source, "the source does not stop in time")}
	case act == vmstate.ActLoadTarget && s.target.is == stands && s.target.works() && (s.way == vmstate.WayDeviceState || s.source.is == stands):
		return []edge{m.on(s, "both report success"), late(s.target, "nobody reports success in time")}
	case act == vmstate.ActLoadTarget && s.way != vmstate.WayDeviceState && (!s.source.alive() || s.answer == obeyed && s.source.is != moving):
		return []edge{asItIs(m.abandon(s, "the source reports failure, or is dead", false))}
	case act == vmstate.ActLoadTarget && s.target.is == dead:
		return []edge{asItIs(m.abandon(s, "the target is dead", false))}
	case act == vmstate.ActLoadTarget:
		e := late(s.target, "nobody reports success in time")
		e.fault = s.target.works() && s.source.works() && (s.streamed || s.source.is == moving || s.source.queue[0] != none)
		return []edge{e}
	case s.answer == obeyed:
		return []edge{m.on(s, "the target has obeyed")}
	case s.answer == refused:
		return []edge{asItIs(m.abandon(s, "the target refuses", true))}
	case s.target.is == dead:
		return []edge{asItIs(m.abandon(s, "the target is dead", !s.targetRan))} // its monitor, read to the end, has said RESUME or not
	default:
		return []edge{late(s.target, "the target does not answer")}
	}
}

// asItIs is an edge that must be taken as things are.
func asItIs(e edge) edge {
	e.fault = false
	return e
}

// look is one look of a recovering daemon, and what it decides.
func (m *model) look(s state) []edge {
	var edges []edge
	for _, source := range m.sights(s.source, s.muteSource) {
		for _, target := range m.sights(s.target, s.muteTarg) {
			to := s
			to.muteSource, to.muteTarg = s.muteSource || source == recovery.Mute, s.muteTarg || target == recovery.Mute
			late := source == recovery.Mute && s.source.works() && !s.muteSource || target == recovery.Mute && s.target.works() && !s.muteTarg
			to.hurt = s.hurt || late
			if to.resolve = m.obvious(s, source, target); to.resolve != s.resolve {
				edges = append(edges, edge{fmt.Sprintf("seen: source %s, target %s: it is the %s's", source, target, to.resolve), late, to})
				continue
			}
			row := m.decide(s, source, target)
			l := look{source, target, s.phase, s.neverRan, s.away}
			if l == s.was && row.Do == s.do {
				row = recovery.Stuck(m.evidence(s, source, target))
			}
			to.was, to.do, to.mode = l, row.Do, acting
			if row.Do == recovery.Nothing || row.Do == recovery.Refuse {
				to.mode, to.was, to.do, to.muteSource, to.muteTarg = idle, look{}, "", false, false
			}
			edges = append(edges, edge{fmt.Sprintf("seen: source %s, target %s: %s", source, target, row.Do), late, to})
		}
	}
	return edges
}

// obvious is what has been decided, or is now.
func (m *model) obvious(s state, source, target recovery.Sight) recovery.Choice {
	if s.resolve == recovery.Undecided && (s.silent || m.alwaysSilent) {
		return recovery.Obvious(m.evidence(s, source, target), s.open)
	}
	return s.resolve
}

func (m *model) evidence(s state, source, target recovery.Sight) recovery.Evidence {
	e := recovery.Evidence{Phase: m.info(s).Phase, NeverRan: (s.neverRan || s.knows) && m.info(s).Phase == vmstate.Committing, Ran: s.ran,
		Restarts: s.way == vmstate.WayLive, Source: source, Target: target, Moved: s.away}
	if !s.settled {
		e.Resolve = s.resolve
	}
	return e
}

func (m *model) decide(s state, source, target recovery.Sight) recovery.Row {
	return recovery.DecideBy(m.table, m.evidence(s, source, target))
}

// sights are what can be seen of a QEMU: the truth, once it has answered, and silence, if it hangs or is late.
func (m *model) sights(q qemu, mute bool) []recovery.Sight {
	switch {
	case !q.alive():
		return []recovery.Sight{q.is.seen()}
	case mute || q.hung:
		return []recovery.Sight{recovery.Mute}
	case q.queue[0] != none: // its answer stands behind others
		return []recovery.Sight{recovery.Mute}
	}
	return []recovery.Sight{q.is.seen(), recovery.Mute}
}

// act does what was decided.
func (m *model) act(s state) []edge {
	to := s
	to.mode, to.answer = looking, noAnswer
	switch s.do {
	case recovery.Fence:
		to.target = qemu{is: dead}
	case recovery.MoveBack:
		full := to
		full.hurt = true
		to.away = false
		return []edge{{"move_back", false, to}, {"the memory cannot be moved back", true, full}}
	case recovery.GiveBack:
		return m.giveBack(s)
	case recovery.WriteOff:
		to.neverRan = true
	case recovery.Intend:
		to.phase = m.index(vmstate.Committing)
	case recovery.RunTarget:
		if !s.target.works() {
			to.muteTarg = s.target.alive()
			break
		}
		to.target.queue, to.mode = s.target.queue.pushed(cont), asking
	case recovery.EndSource:
		if m.info(s).Phase == vmstate.Committed {
			to.phase, to.mode = m.index(vmstate.Draining), acting
			break
		}
		if s.source.alive() {
			to.source = qemu{is: dead}
		}
	case recovery.Settle:
		to.settled = true
	default:
		p, _ := recordOf(s.do, m.info(s).Phase)
		to.phase, to.open = m.index(p), s.open || s.do == recovery.LeaveOpen
		to.silent = s.silent || p == vmstate.Failed && recovery.Silent(m.evidence(s, s.was.source, s.was.target))
	}
	return []edge{{string(s.do), false, to}}
}

// giveBack ends the source's migration, and then tells it to run.
func (m *model) giveBack(s state) []edge {
	late := s
	late.mode, late.muteSource = looking, s.source.alive()
	late.hurt = true
	edges := []edge{{"the source does not answer", s.source.works(), late}}
	if !s.source.works() || s.source.is == moving {
		return edges
	}
	to := s
	to.mode, to.answer = looking, noAnswer
	if s.ran && s.source.is == stands {
		to.source.queue, to.mode = s.source.queue.pushed(cont), asking
	}
	return append(edges, edge{"give_back", false, to})
}

// awaitRecovery waits for the answer to a cont.
func (m *model) awaitRecovery(s state) []edge {
	to := s
	to.mode, to.answer = looking, noAnswer
	who := s.source
	if s.do == recovery.RunTarget {
		who = s.target
	}
	switch {
	case s.answer != noAnswer:
		to.neverRan = s.neverRan || s.answer == refused && s.do == recovery.RunTarget && m.info(s).Phase == vmstate.Committing
		return []edge{{"answered", false, to}}
	case !who.alive():
		to.neverRan = s.neverRan || !s.targetRan && s.do == recovery.RunTarget && m.info(s).Phase == vmstate.Committing
		return []edge{{"dead", false, to}}
	case s.do == recovery.RunTarget:
		to.muteTarg = true
	default:
		to.muteSource = true
	}
	to.hurt = true
	return []edge{{"no answer in time", who.works(), to}}
}

// person resolves a handoff that has failed, unless a silent QEMU speaks before, at which the daemon looks again.
func (m *model) person(s state) []edge {
	if m.info(s).Phase != vmstate.Failed || s.settled {
		return nil
	}
	again := s
	again.mode = looking
	edges := []edge{{"the daemon looks again", true, again}}
	for _, choice := range []recovery.Choice{recovery.ToSource, recovery.ToTarget, recovery.Discard} {
		to := s
		to.resolve, to.mode = choice, looking
		to.toSource, to.toTarget = s.toSource || choice == recovery.ToSource, s.toTarget || choice == recovery.ToTarget
		sources, targets := m.sights(s.source, false), m.sights(s.target, false)
		if m.decide(to, sources[0], targets[0]).Do != recovery.Refuse {
			edges = append(edges, edge{"a person chooses " + string(choice), true, to})
		}
	}
	return edges
}
