package daemon

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"slices"
	"time"

	"qlive/daemon/record"
	"qlive/flip"
	"qlive/flip/memory"
	"qlive/internal/qemu"
	"qlive/internal/qmp"
	"qlive/vmstate"
)

// found is what is found of a VM: its QEMUs that live.
type found struct {
	alive          []*generation
	source, target *generation // of the last migration; nil if gone
}

// has is the generation of one of the sides.
func (f *found) has(s *flip.Side) *generation {
	for _, g := range f.alive {
		if s != nil && g.side == s {
			return g
		}
	}
	return nil
}

// takeUp makes the machine what an earlier daemon has left. It returns when the guest is where it belongs, or it is plain that somebody must see
// to that first.
func (m *machine) takeUp(ctx context.Context, l *left) {
	m.restore(l)
	m.findPlace()
	f := m.find(ctx, l)
	if l.vm.Current == record.None {
		m.bury(slices.DeleteFunc(f.alive, func(g *generation) bool { return g.foreign })...) // that one had a guest before qlive came
		m.endedBefore()
		return
	}
	m.reopen(f)
	if len(l.history) > 0 {
		m.recover(ctx, l, f)
		return
	}
	i := slices.IndexFunc(f.alive, func(g *generation) bool { return g.number == l.vm.Current })
	if i < 0 {
		m.bury(f.alive...)
		m.endedUnseen(nil)
		return
	}
	keeper := f.alive[i]
	m.bury(slices.DeleteFunc(f.alive, func(g *generation) bool { return g == keeper })...)
	m.settle(ctx, keeper)
}

// restore takes over what was written down.
func (m *machine) restore(l *left) {
	m.mu.Lock()
	defer m.mu.Unlock()
	v := l.vm
	m.facts, m.objects, m.journal, m.identities, m.written = v.Facts, v.Objects, l.journal, v.Memory, v.Generations
	m.next.identities, m.next.spec = v.NextMemory, v.NextSpec
	if n := len(v.Generations); n > 0 {
		m.started = v.Generations[n-1]
	}
	m.number, m.completed, m.past, m.logs, m.consoles, m.asked = v.Next, v.Completed, v.Past, v.Logs, v.Consoles, v.Asked
	m.status, m.ending, m.lastKeeper = v.Ended, v.Ending, v.Current
	m.value = vmstate.VM{Name: v.Spec.Name, StartedAt: v.StartedAt, Machine: v.Facts.Machine.Name, Warnings: v.Warnings, RunState: "none"}
	m.adoption = v.Adoption
	m.value.Adoption = v.Adoption
	for _, id := range v.Memory {
		m.value.RAMBytes += id.SizeBytes
	}
	if v.Adoption != nil && len(v.Memory) == 0 {
		m.value.RAMBytes = ramOf(v.Adoption)
	}
	if n := len(l.history); n > 0 {
		m.value.Migration = l.history[n-1].last().Migration
	}
}

// find attaches to the QEMUs that live, and calls their monitors, all at once: one that hangs keeps nobody waiting for the others.
func (m *machine) find(ctx context.Context, l *left) *found {
	f := &found{}
	calls := make(chan struct{})
	n := 0
	for _, w := range l.vm.Generations {
		g, err := attach(w)
		if err != nil {
			if !gone(err) {
				m.log.Error().Err(err).Int("generation", w.Number).Msg("QEMU not looked after")
			}
			continue
		}
		f.alive = append(f.alive, g)
		n++
		go func() { // waited for below
			defer func() { calls <- struct{}{} }()
			if err := m.call(ctx, g, l.patience(g)); err != nil {
				m.log.Warn().Err(err).Msg("QEMU does not answer")
			}
		}()
	}
	for range n {
		<-calls
	}
	if len(l.history) > 0 {
		f.sides(l.history[len(l.history)-1])
	}
	return f
}

// sides finds the two QEMUs of the last migration. A target that no record names is one that is younger than the source.
func (f *found) sides(a *attempt) {
	source, target := a.last().Source, a.target()
	for _, g := range f.alive {
		switch id := g.side.ID(); {
		case id.PID == source.PID && id.StartTime == source.StartTime:
			f.source = g
		case target == (flip.ProcessID{}) || id.PID == target.PID && id.StartTime == target.StartTime:
			f.target = g
		}
	}
}

// attach takes hold of a QEMU that was written down. If there is none any more the error is one of gone's.
func attach(w record.Generation) (*generation, error) {
	id := w.Process
	if id == (qemu.Identity{}) { // its starter died in between
		var err error
		if id, err = qemu.Find(w.Line.Argv()); err != nil {
			return nil, err
		}
	}
	binary := w.Binary
	g := &generation{number: w.Number, dir: w.Dir, foreign: w.Foreign, line: w.Line, binary: &binary, info: &qemu.Info{Binary: binary.Path, Package: w.Package}}
	process, err := qemu.Attach(id, g.log())
	if err != nil {
		return nil, err
	}
	g.side = &flip.Side{Process: process, Binary: binary.Path, Version: w.Version, Dir: w.Dir}
	return g, nil
}

// gone tells whether attach's error says that the QEMU is not there any more.
func gone(err error) bool {
	kind := vmstate.KindOf(err)
	return kind == vmstate.Lost || kind == vmstate.NotFound
}

// reopen finds the guest's RAM again. A guest whose RAM is not to be found runs on, and is not handed over.
func (m *machine) reopen(f *found) {
	finds := []memory.Find{m.stored}
	for _, g := range f.alive {
		finds = append(finds, memory.InProcess(g.side.Process.PID()), memory.InMaps(g.side.Process.PID()))
	}
	finds = append(finds, memory.ByPath)
	set, err := memory.Reopen(m.identities, finds...)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.memory = set
	m.reopenNext(finds...)
	if err != nil && len(f.alive) > 0 {
		m.log.Error().Err(err).Msg("guest RAM not found again")
		m.noMemory = named(err, m.spec.Name)
		m.unfit = m.noMemory
	}
}

// stored finds RAM among the descriptors that the service manager has kept. What it has under the name and is something else is passed over.
func (m *machine) stored(id memory.Identity) (*os.File, error) {
	for _, region := range []string{id.Name, id.Name + nextMark} { // under either, as a handoff is just over that has moved it
		f := m.d.custody.offer(m.spec.Name, region)
		if f == nil {
			continue
		}
		again, err := memory.Among([]*os.File{f})(id)
		m.d.custody.close(f)
		if !errors.Is(err, fs.ErrNotExist) {
			return again, err
		}
	}
	return nil, fs.ErrNotExist
}

// bury ends QEMUs that do not have the guest, and clears them away. What the guest has said in one of them stays.
func (m *machine) bury(list ...*generation) {
	for _, g := range list {
		m.log.Info().Int("pid", g.side.Process.PID()).Int("generation", g.number).Msg("QEMU without a guest ended")
		if err := g.side.Process.Kill(); err != nil {
			m.log.Warn().Err(err).Msg("QEMU without a guest not ended")
			continue
		}
		m.d.tasks.Go(func() {
			select {
			case <-g.side.Gone():
				if err := m.clear(g); err != nil {
					m.log.Warn().Err(err).Msg("QEMU without a guest not cleared away")
				}
			case <-m.released:
			}
		})
		m.mu.Lock()
		m.forgetGenerationLocked(g.number)
		m.mu.Unlock()
	}
}

// clear lets go of a QEMU that is dead, and removes its folder if it has never had the guest.
func (m *machine) clear(g *generation) error {
	m.mu.Lock()
	had := slices.Contains(m.logs, g.log())
	m.mu.Unlock()
	if !had {
		return g.discard()
	}
	g.hangUp()
	return g.side.Process.Release()
}

// settle makes g, which has the guest, the VM's QEMU again. If it does not answer it is called until it does.
func (m *machine) settle(ctx context.Context, g *generation) {
	if g.side.Monitor == nil {
		m.begone(g)
		m.d.tasks.Go(func() { m.keepCalling(g) })
		return
	}
	events := g.side.Monitor.Subscribe()
	status, err := m.welcome(ctx, g)
	if err != nil {
		m.log.Warn().Err(err).Msg("run state not read")
	}
	m.score(g)
	m.settleAdoption(g)
	if m.memory != nil {
		m.d.custody.keep(m.spec.Name, m.memory, m.next.set)
	}
	m.mu.Lock()
	m.arrivedLocked(g)
	m.haveLocked(g)
	m.ending, m.mute, m.undecided, m.stray = nil, nil, false, nil
	m.setRunStateLocked(status)
	m.noteLocked()
	m.publishLocked()
	followed := g.followed
	m.mu.Unlock()
	m.d.tasks.Go(func() { m.settleHeld(g) })
	if followed { // since before its handoff failed
		events.Close()
		return
	}
	m.d.tasks.Go(func() { m.watch(g, events) })
}

// welcome asks a QEMU what its guest does. One that was started to run, and whose starter died before he said so, is told to.
func (m *machine) welcome(ctx context.Context, g *generation) (qmp.RunState, error) {
	ctx, cancel := context.WithTimeout(ctx, answerSoon)
	defer cancel()
	status, err := g.side.Monitor.QueryStatus(ctx)
	if err != nil {
		return "", err
	}
	if status.Status != qmp.RunPrelaunch || g.number > 0 || g.line.Paused {
		return status.Status, nil
	}
	if err := g.side.Monitor.Cont(ctx); err != nil {
		return status.Status, err
	}
	status, err = g.side.Monitor.QueryStatus(ctx)
	return status.Status, err
}

// score tells the kernel that this QEMU has the guest, should memory run out.
func (m *machine) score(g *generation) {
	if g.foreign {
		return // it has what its starter gave it
	}
	if err := g.side.Process.SetOOMScoreAdj(m.place.score); err != nil {
		m.log.Warn().Err(err).Msg("oom_score_adj not set")
	}
}

// arrivedLocked counts a handoff to g, unless it has been: one that the journal knows of may not have been written down any more.
func (m *machine) arrivedLocked(g *generation) {
	if m.lastKeeper == g.number {
		return
	}
	m.completed++
	if w, ok := (&record.VM{Generations: m.written}).Generation(m.lastKeeper); ok {
		m.past = append(m.past, w.Binary.Path)
	}
	m.keepsLocked(g)
}

// keepsLocked makes g the newest generation that has had the guest: what is said in it belongs to the VM's texts.
func (m *machine) keepsLocked(g *generation) {
	m.logs = append(m.logs, g.log())
	if c := g.console(); c != "" {
		m.consoles = append(m.consoles, c)
	}
	m.lastKeeper = g.number
}

// haveLocked makes g the QEMU that has the guest, as far as anybody knows, with all that hangs on it.
func (m *machine) haveLocked(g *generation) {
	m.current = g
	m.value.Regions = m.ownedBy(g)
	if m.names.links == nil {
		m.names = foundNames(m.spec.Dir, m.d.cfg.vmDir(m.spec.Name), g.line.Names)
	}
	m.moveNames(g)
}

// ownedBy is the guest's RAM as it is while one QEMU alone has it.
func (m *machine) ownedBy(g *generation) []vmstate.Region {
	return append(regionsOf(m.memory, g), m.privateTo(g)...)
}

// regionsOf is RAM as it is while g alone has it.
func regionsOf(set *memory.Set, g *generation) []vmstate.Region {
	var list []vmstate.Region
	for _, r := range set.Regions() {
		list = append(list, r.Value().Reset(g.side.Process.PID()))
	}
	return list
}

// begone shows a VM whose QEMU is alive and does not answer.
func (m *machine) begone(g *generation) {
	e := vmstate.Errorf(vmstate.QEMU, "cannot talk to the QEMU of %s: process %d is alive and its monitor does not answer", m.spec.Name, g.side.Process.PID()).
		With("it is called again every second; one that was stopped goes on with kill -CONT, and `qlive rm --force " + m.spec.Name + "` ends one that hangs")
	e.VM = m.spec.Name
	m.mu.Lock()
	defer m.mu.Unlock()
	m.arrivedLocked(g)
	m.haveLocked(g)
	m.mute, m.status, m.ending = e, vmstate.Broken, vmstate.ProblemOf(e)
	m.noteLocked()
	m.publishLocked()
}

// callAgain is how often a QEMU is called that does not answer.
const callAgain = time.Second

// keepCalling calls a QEMU until it answers or ends.
func (m *machine) keepCalling(g *generation) {
	for {
		select {
		case <-g.side.Gone():
			m.ended(g, "")
			return
		case <-m.released:
			return
		case <-time.After(callAgain):
		}
		if m.call(m.d.running, g, answerSoon) == nil {
			m.log.Info().Msg("QEMU answers again")
			if !m.afterSilence(m.d.running) {
				m.settle(m.d.running, g)
			}
			return
		}
	}
}
