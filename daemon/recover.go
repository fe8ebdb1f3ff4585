package daemon

import (
	"context"

	"qlive/flip"
	"qlive/flip/recovery"
	"qlive/vmstate"
)

// recover brings the last migration of a VM to its end, if it has none, and puts into place what comes out.
func (m *machine) recover(ctx context.Context, l *left, f *found) {
	a := l.history[len(l.history)-1]
	if last := a.last(); last.Phase.Ended() && !last.Open() {
		m.putInPlace(ctx, ended(a, f), f)
		return
	}
	out := flip.Recover(context.WithoutCancel(ctx), m.recovery(a, l.migration(a), f)) // each of its steps has a limit, and it is not left in the middle
	log := m.log.Info()
	if out.Err != nil {
		log = m.log.Warn().Err(out.Err)
	}
	log.Str("migration", out.Migration.ID).Str("from", string(a.last().Phase)).Str("phase", string(out.Migration.Phase)).Msg("handoff taken up")
	if out.Migration.Phase == vmstate.Completed && f.target == nil {
		m.hadGuest(a.target())
	}
	if !a.last().Phase.Ended() {
		m.d.metrics.handedOver(out.Migration)
		m.d.registry.putMigration(out.Migration)
		m.noteMigration(out.Migration)
	}
	m.putInPlace(ctx, out, f)
}

// ended is how things stand after a handoff of which nothing is left to be decided.
func ended(a *attempt, f *found) flip.Outcome {
	last := a.last()
	out := flip.Outcome{}
	sight := func(g *generation) recovery.Sight {
		if g == nil {
			return recovery.Dead
		}
		return recovery.Stands // or whatever a living one does
	}
	e := recovery.Evidence{Phase: last.Phase, Resolve: last.Resolve, Source: sight(f.source), Target: sight(f.target)}
	switch e.Keeper(last.Undecided) {
	case recovery.ToSource:
		out.Keeper = f.source.side
	case recovery.ToTarget:
		out.Keeper = f.target.side
	}
	return out
}

// recovery is what flip needs to know of a migration that has been left.
func (m *machine) recovery(a *attempt, known vmstate.Migration, f *found) flip.Recovery {
	r := flip.Recovery{
		Records: a.records, Times: a.times, Migration: known, Memory: m.memory, To: m.next.set, Ledger: m.ledgerPath(), Journal: recorder{m.journal},
		Publish: m.d.registry.putMigration, Failpoints: m.d.failpoints, Gate: &m.gate, ContLimit: m.d.contLimit, Log: m.log,
	}
	if f.source != nil {
		r.Source = f.source.side
	}
	if f.target != nil {
		r.Target = f.target.side
	}
	return r
}

// putInPlace makes the VM what has come out of a handoff that was taken up, or that a person has decided of.
func (m *machine) putInPlace(ctx context.Context, out flip.Outcome, f *found) {
	keeper := f.has(out.Keeper)
	switch {
	case len(f.alive) == 0:
	case keeper == nil && !out.Undecided && f.allDead():
		for _, g := range f.alive { // that recovery has ended, or that have ended meanwhile
			if err := m.clear(g); err != nil {
				m.log.Warn().Err(err).Msg("QEMU without a guest not cleared away")
			}
		}
	case out.Undecided, keeper == nil: // nobody has said who has the guest: nothing is touched
		m.leaveOpen(out, f)
		return
	}
	if keeper == nil {
		m.endedUnseen(out.Err)
		return
	}
	for _, g := range f.alive {
		if g != keeper {
			m.bury(g)
		}
	}
	m.mu.Lock()
	moved := keeper == f.target && m.next.identities != nil
	if moved {
		m.promoteLocked()
	} else {
		m.demoteLocked()
	}
	m.mu.Unlock()
	if moved {
		m.noteMemory()
	}
	m.settle(ctx, keeper)
	if out.Migration.Phase == vmstate.Failed && out.Err != nil {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.status, m.ending = vmstate.Broken, vmstate.ProblemOf(named(out.Err, m.spec.Name))
		m.publishLocked()
	}
}

// hadGuest notes that a QEMU which is dead has had the guest: the handoff to it was completed, and its end is the VM's.
func (m *machine) hadGuest(id flip.ProcessID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, w := range m.written {
		if w.Process.PID == id.PID && w.Process.Start == id.StartTime {
			m.arrivedLocked(&generation{number: w.Number, dir: w.Dir, line: w.Line})
			return
		}
	}
}

// allDead tells whether all QEMUs that were found alive have ended since.
func (f *found) allDead() bool {
	for _, g := range f.alive {
		if !g.dead() {
			return false
		}
	}
	return true
}

// leaveOpen keeps both QEMUs of a handoff that nobody can decide of, for a person to look at.
func (m *machine) leaveOpen(out flip.Outcome, f *found) {
	m.mu.Lock()
	defer m.mu.Unlock()
	first, second := f.source, f.target
	if first == nil {
		first, second = f.target, nil
	}
	m.undecided, m.stray = true, second
	if first != nil {
		m.haveLocked(first)
		m.d.tasks.Go(func() { m.await(first, "") })
	}
	if second != nil {
		m.d.tasks.Go(func() { m.await(second, "") })
	}
	m.status, m.value.RunState = vmstate.Broken, "unknown"
	switch {
	case out.Err != nil:
		m.ending = vmstate.ProblemOf(named(out.Err, m.spec.Name))
	case out.Migration.Error != nil:
		m.ending = out.Migration.Error
	default:
		m.ending = vmstate.ProblemOf(m.nobodyKnows("go on with"))
	}
	m.noteLocked()
	m.publishLocked()
	m.d.tasks.Go(m.keepListening)
}
