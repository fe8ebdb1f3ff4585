package daemon

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"qlive/daemon/record"
	"qlive/internal/journal"
	"qlive/vmstate"
)

// left is what an earlier daemon has left of a VM in the run directory.
type left struct {
	name    string
	vm      record.VM
	journal *journal.Journal
	history []*attempt
	known   map[string]vmstate.Migration // what was written down of them beside the journal
	err     error                        // why it cannot be read
}

// standing tells whether the guest may stand still until somebody decides who runs it.
func (l *left) standing() bool {
	if len(l.history) == 0 {
		return false
	}
	switch l.history[len(l.history)-1].last().Phase {
	case vmstate.Switching, vmstate.Committing:
		return true
	}
	return false
}

// arriving tells whether the guest is in its target, or on its way there, while its memory follows: that takes as long as there is memory, or as a
// QEMU hangs.
func (l *left) arriving() bool {
	if len(l.history) == 0 {
		return false
	}
	switch last := l.history[len(l.history)-1].last(); last.Phase {
	case vmstate.Committing, vmstate.Committed, vmstate.Draining:
		return last.Mode == vmstate.ModePostcopy && !last.Whole
	}
	return false
}

// arriveSoon is how long the daemon's start waits for guests that are arriving.
const arriveSoon = time.Second

// takeUp takes up every VM that an earlier daemon has left, and returns when each is seen to, or has said that it takes longer: guests that stand go
// before the others, and none waits for another.
func (d *Daemon) takeUp(list []*left) {
	slices.SortStableFunc(list, func(a, b *left) int { return cmp.Compare(rank(a), rank(b)) })
	turns := make(chan struct{}, atOnce)
	var all sync.WaitGroup
	for _, l := range list {
		if !l.standing() {
			turns <- struct{}{}
		}
		all.Go(func() {
			seen := make(chan struct{})
			d.tasks.Go(func() { defer close(seen); d.takeUpOne(l) })
			var enough <-chan time.Time
			if l.arriving() {
				enough = time.After(arriveSoon)
			}
			select {
			case <-seen:
			case <-enough: // until it is seen to it is shown as starting
			}
			if !l.standing() {
				<-turns
			}
		})
	}
	all.Wait()
}

// atOnce is how many guests that run are taken up at the same time; there is no hurry, and those that stand need the processors.
const atOnce = 16

func rank(l *left) int {
	if l.standing() {
		return 0
	}
	return 1
}

// findLeft reads what is left of every VM, takes their names, and shows them as starting. Folders in which no VM was ever written down are passed
// over: their QEMU has never run a guest.
func (d *Daemon) findLeft() ([]*left, error) {
	entries, err := os.ReadDir(filepath.Join(d.cfg.RunDir, "vms"))
	if err != nil {
		return nil, vmstate.Errorf(vmstate.Host, "cannot look for the guests of an earlier daemon: %w", err)
	}
	var list []*left
	for _, e := range entries {
		if !e.IsDir() || vmstate.CheckName(e.Name()) != nil {
			continue
		}
		l := d.readLeft(e.Name())
		if errors.Is(l.err, fs.ErrNotExist) {
			d.log.Warn().Str("vm", l.name).Msg("folder passed over: no guest was ever written down in it")
			continue
		}
		d.mu.Lock()
		d.machines[l.name] = nil
		d.mu.Unlock()
		d.registry.putVM(vmstate.VM{Name: l.name, Status: vmstate.Starting, RunState: "none", StartedAt: l.vm.StartedAt, Machine: l.vm.Facts.Machine.Name})
		list = append(list, l)
	}
	return list, nil
}

func (d *Daemon) readLeft(name string) *left {
	l := &left{name: name}
	dir := d.cfg.vmDir(name)
	if l.vm, l.err = record.Read(dir); l.err != nil {
		return l
	}
	if l.vm.Spec.Name != name {
		l.err = vmstate.Errorf(vmstate.Host, "cannot take up %s: the record in its folder is that of %s", name, l.vm.Spec.Name).With("find out who moved the folder")
		return l
	}
	path := record.JournalOf(dir)
	if l.journal, l.err = journal.Open(path); l.err != nil {
		return l
	}
	if l.history, l.err = readHistory(path); l.err != nil {
		l.err = errors.Join(l.err, l.journal.Close())
		l.journal = nil
	}
	return l
}

// takeUpOne takes up one VM. Whatever goes wrong is said at this VM, by its name, and nothing of it is removed.
func (d *Daemon) takeUpOne(l *left) {
	began := time.Now()
	spec := l.vm.Spec
	spec.Name = l.name
	m := d.newMachine(spec)
	if l.err == nil {
		d.remember(l)
		m.takeUp(d.running, l)
	} else {
		m.unreadable(l)
	}
	d.mu.Lock()
	if m.forgotten {
		delete(d.machines, l.name)
	} else {
		d.machines[l.name] = m
	}
	d.mu.Unlock()
	m.carryOut()
	v := m.now()
	m.log.Info().Str("status", string(v.Status)).Int("pid", v.PID).Dur("took", time.Since(began)).Msg("guest taken up")
}

// unreadable shows a VM of which nobody can say what it is. Its QEMU, if it runs, is left alone.
func (m *machine) unreadable(l *left) {
	e := named(l.err, l.name)
	m.log.Error().Err(e).Msg("VM not taken up")
	m.mu.Lock()
	defer m.mu.Unlock()
	m.status, m.ending = vmstate.Broken, vmstate.ProblemOf(e)
	m.value = brokenValue(l.name, e)
	close(m.settled)
	m.publishLocked()
}

// remember shows the migrations that have ended.
func (d *Daemon) remember(l *left) {
	list, err := record.ReadMigrations(d.cfg.vmDir(l.name))
	if err != nil {
		d.log.Warn().Err(err).Str("vm", l.name).Msg("not every migration is remembered")
	}
	l.known = make(map[string]vmstate.Migration)
	for _, v := range list {
		l.known[v.ID] = v
	}
	for _, a := range l.history {
		if v := l.migration(a); v.Phase.Ended() {
			d.registry.putMigration(v)
			delete(l.known, v.ID)
		}
	}
	for _, v := range list {
		if _, left := l.known[v.ID]; left && (len(l.history) == 0 || l.history[len(l.history)-1].last().Migration != v.ID) {
			d.registry.putMigration(neverBegun(v))
		}
	}
}

// neverBegun is a migration that was accepted and of which the journal has no record: nothing had been started.
func neverBegun(v vmstate.Migration) vmstate.Migration {
	if v.Phase.Ended() {
		return v
	}
	now := time.Now()
	e := vmstate.Errorf(vmstate.Unavailable, "cannot hand %s over: the daemon ended before it had begun", v.VM).With("ask for the handoff again")
	e.VM, e.Migration = v.VM, v.ID
	v.Phase, v.EndedAt, v.TotalUS, v.Error = vmstate.RolledBack, &now, now.Sub(v.StartedAt).Microseconds(), vmstate.ProblemOf(e)
	v.Phases = append(v.Phases, vmstate.PhaseTime{Phase: v.Phase, At: now})
	return v
}

// migration is what is known of an attempt: what was written down of it when it ended, else as much of it as was when it was accepted, with what
// the journal says.
func (l *left) migration(a *attempt) vmstate.Migration {
	v := a.migration(func(dir string) (path, version string) {
		for _, g := range l.vm.Generations {
			if g.Dir == dir && dir != "" {
				return g.Binary.Path, g.Version
			}
		}
		return "", ""
	})
	known, ok := l.known[v.ID]
	if !ok {
		return v
	}
	if known.Phase == v.Phase && known.Phase.Ended() {
		return known
	}
	v.StartedAt, v.Spec, v.From, v.To.Binary = known.StartedAt, known.Spec, known.From, cmp.Or(v.To.Binary, known.To.Binary)
	v.Phases = append(slices.Clone(known.Phases[:min(1, len(known.Phases))]), v.Phases...)
	if len(v.Phases) > 1 && v.Phases[0].Phase == vmstate.Planned {
		v.Phases[0].US = v.Phases[1].At.Sub(v.Phases[0].At).Microseconds()
	}
	return v
}

// answerSoon bounds how long a QEMU that is taken up may take to greet. One that runs answers within a millisecond; for one that hangs
// nobody waits.
const answerSoon = 3 * time.Second

// doomedSoon is answerSoon for a target that is to be killed whatever it says: while it is waited for, its guest stands.
const doomedSoon = 500 * time.Millisecond

// patience is how long a QEMU may take to greet that an earlier daemon has left.
func (l *left) patience(g *generation) time.Duration {
	if len(l.history) == 0 {
		return answerSoon
	}
	a := l.history[len(l.history)-1]
	if id := a.target(); a.last().Phase == vmstate.Switching && id.PID == g.side.ID().PID && id.StartTime == g.side.ID().StartTime {
		return doomedSoon
	}
	return answerSoon
}

// call connects to the monitor of a QEMU that runs already, if it greets within limit.
func (m *machine) call(ctx context.Context, g *generation, limit time.Duration) error {
	if g.side.Monitor != nil {
		return nil
	}
	err := g.meet(ctx, limit, m.observers(g.number)...)
	if err == nil {
		return nil
	}
	if g.words != nil {
		err = errors.Join(err, g.words.close())
		g.words = nil
	}
	e := vmstate.Errorf(vmstate.QEMU, "cannot talk to the QEMU of %s, process %d: %w", m.spec.Name, g.side.Process.PID(), err).
		With("it is tried again every second; a QEMU that was stopped goes on with `kill -CONT`, and `qlive rm --force " + m.spec.Name + "` ends one that hangs")
	e.VM = m.spec.Name
	return e
}
