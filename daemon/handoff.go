package daemon

import (
	"context"
	"errors"
	"slices"
	"time"

	"qlive/daemon/record"
	"qlive/flip"
	"qlive/internal/carry"
	"qlive/internal/definition"
	"qlive/internal/journal"
	"qlive/internal/qemu"
	"qlive/internal/qemu/cmdline"
	"qlive/internal/qmp"
	"qlive/internal/room"
	"qlive/vmstate"
)

// recorder writes a handoff's records into the VM's journal.
type recorder struct{ journal *journal.Journal }

func (r recorder) Record(record flip.Record) error { return r.journal.Append(record) }

// observers follow a generation's monitor for the trace of a handoff.
func (m *machine) observers(number int) []qmp.Observer {
	return []qmp.Observer{&spanObserver{m: m, number: number}}
}

// spanObserver puts each command to a QEMU into the trace of the handoff that is under way.
type spanObserver struct {
	m      *machine
	number int
}

func (o *spanObserver) Sent(qmp.Query) {}

func (o *spanObserver) Replied(r qmp.Reply) {
	o.trace(func(h *flip.Handoff, source bool) { h.Observe(source, r.Command, r.Sent, r.Received, r.Err) })
}

func (o *spanObserver) Event(e qmp.Event) {
	o.trace(func(h *flip.Handoff, source bool) { h.Heard(source, e.Name, e.Received, e.Data) })
}

func (o *spanObserver) trace(f func(*flip.Handoff, bool)) {
	h, source := o.m.tracing.Load(), true
	if h == nil {
		return
	}
	if h.number <= o.number {
		source = false
	}
	f(h.handoff, source)
}

// tracing is the handoff under way and the number of the generation that it starts.
type tracing struct {
	handoff *flip.Handoff
	number  int
}

// migrate accepts a handoff of this VM. It runs on by itself.
func (m *machine) migrate(spec vmstate.MigrationSpec, mode flip.Choice, id string, binary *qemu.Binary) (vmstate.Migration, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.handoff != nil {
		e := vmstate.Errorf(vmstate.Busy, "cannot hand %s over: migration %s is under way", m.spec.Name, m.handoff.Migration().ID).
			With("wait for it (`qlive migration wait " + m.handoff.Migration().ID + "`) or cancel it")
		e.VM = m.spec.Name
		return vmstate.Migration{}, e
	}
	source := m.current
	switch {
	case m.undecided:
		return vmstate.Migration{}, m.nobodyKnows("hand over")
	case m.mute != nil:
		return vmstate.Migration{}, m.mute
	case m.unfit != nil:
		return vmstate.Migration{}, m.unfit
	case source == nil:
		return vmstate.Migration{}, m.notThere("hand over")
	case m.asked.Remove:
		return vmstate.Migration{}, vmstate.Errorf(vmstate.Conflict, "cannot hand %s over: it is being removed", m.spec.Name)
	}
	regions := slices.Clone(m.value.Regions)
	for i, r := range regions {
		regions[i] = r.Reset(source.side.Process.PID())
	}
	ram, err := m.prepareMemoryLocked(mode.Mode, spec)
	if err != nil {
		return vmstate.Migration{}, err
	}
	if intoNew(mode.Mode) {
		regions = regionsOf(ram, source)
	}
	run := &run{m: m, source: source, binary: binary, number: m.number, mode: mode.Mode}
	way := flip.ChooseWay(spec.Way)
	run.memory = spec.Memory
	run.handoff = flip.New(flip.Config{
		Migration: vmstate.Migration{
			ID: id, VM: m.spec.Name, Spec: &spec, Regions: regions,
			From:     vmstate.QEMUProcess{Binary: source.binary.Path, Version: source.side.Version, PID: source.side.Process.PID()},
			To:       vmstate.QEMUProcess{Binary: binary.Path},
			Warnings: []string{}, Log: []vmstate.LogLine{},
		},
		Spec: spec, Number: run.number, Arrived: source.number > 0, Mode: mode.Mode, Why: mode.Why, Way: way, Source: source.side, Memory: ram, Objects: m.objects,
		Plan: run.plan, Start: run.start, Journal: recorder{m.journal}, Publish: run.publish, Failpoints: m.d.failpoints, ContLimit: m.d.contLimit,
		Offer: cmdline.OfferBelow(m.d.cfg.generationDir(m.spec.Name, run.number)), Own: m.place.user.Give,
		Relay:   run.relay(),
		Rehouse: run.rehousing(spec.Memory),
		Scripts: m.runsScripts(source), Alone: run.alone,
		Gate: &m.gate, Quiet: run.quiet, Log: m.log,
	})
	if err := record.WriteMigration(m.d.cfg.vmDir(m.spec.Name), run.handoff.Migration()); err != nil {
		return vmstate.Migration{}, err
	}
	if err := run.handoff.Accept(); err != nil {
		return vmstate.Migration{}, err
	}
	m.number++
	m.handoff = run.handoff
	m.tracing.Store(&tracing{run.handoff, run.number})
	m.value.Migration, m.value.Regions = id, slices.Clone(regions)
	accepted := run.handoff.Migration()
	m.d.keep(run.handoff)
	m.d.registry.putMigration(accepted)
	m.publishLocked()
	m.d.tasks.Go(func() { run.run(m.d.running) })
	return accepted, nil
}

// run is one handoff as the daemon sees it.
type run struct {
	m       *machine
	handoff *flip.Handoff
	source  *generation
	target  *generation
	binary  *qemu.Binary
	planned *plan
	number  int
	mode    vmstate.Mode
	memory  *vmstate.MemorySpec // what RAM shall be made of; nil: as it is
	events  *qmp.Subscription   // of the target, from before it runs
}

func (r *run) plan(ctx context.Context) (vmstate.QEMUProcess, error) {
	facts, moved := r.m.facts, r.memory != nil
	if moved {
		facts.PageBytes = r.memory.PageBytes
	}
	p, err := r.m.planGeneration(ctx, r.binary, facts, r.number, r.mode, moved && r.memory.Backing != vmstate.Memfd)
	if err != nil {
		return vmstate.QEMUProcess{}, err
	}
	r.planned = p
	return vmstate.QEMUProcess{Binary: p.binary.Path, Version: p.info.Version.String()}, nil
}

func (r *run) start(ctx context.Context) (*flip.Side, error) {
	if err := r.m.roomBeside(r); err != nil {
		return nil, err
	}
	if err := r.source.keepData(ctx); err != nil {
		return nil, err
	}
	if r.mode == vmstate.ModePostcopy { // the source lets go of them behind the point of no return
		if err := r.m.checkImages(ctx, r.source); err != nil {
			return nil, err
		}
	}
	has, err := r.m.handOn(ctx, r.source, r.planned)
	if err != nil {
		return nil, err
	}
	defer has.close()
	amid := r.m.aroundOf(r.source)
	amid.files, amid.headers = has.files, carry.HeaderLengths(has.taps)
	done := carry.KeepTaps(has.taps)
	g, err := r.m.startGeneration(ctx, r.planned, r.m.memoryFor(r), amid)
	done()
	if err == nil {
		err = scheduleThreads(ctx, r.source, g)
	}
	r.target, err = g, room.Explain(r.m.d.cfg.RunDir, err)
	if g == nil {
		return nil, err
	}
	if err == nil {
		r.events = g.side.Monitor.Subscribe()
	}
	return g.side, err
}

// quiet is called right before the guest is stopped.
func (r *run) quiet() {
	r.m.d.lull.begin()
	r.m.hush()
}

// publish shows the handoff, and its regions as those of the VM. The VM is what the handoff says before anybody can read it: from
// committed on it is the target that has the guest, and with the end the VM is free for the next handoff.
func (r *run) publish(v vmstate.Migration) {
	m := r.m
	if v.Phase == vmstate.Committed || v.Phase.Ended() {
		defer m.d.lull.end()
		defer m.heed() // when the VM has been seen to be in the one or the other
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.value.Regions = v.Regions
	gone := false
	switch {
	case v.Phase == vmstate.Committed && m.current != r.target:
		r.moveLocked()
		m.setRunStateLocked(qmp.RunState(r.handoff.RunState()))
	case v.Phase.Ended():
		if state := r.handoff.RunState(); state != "" && v.Phase == vmstate.RolledBack {
			m.setRunStateLocked(qmp.RunState(state))
		}
		gone = r.endLocked(v)
	}
	if !gone {
		m.publishLocked()
	}
	m.d.registry.putMigration(v)
}

// moveLocked makes the target the QEMU that has the guest.
func (r *run) moveLocked() {
	m := r.m
	m.arrivedLocked(r.target)
	m.current = r.target
	m.score(r.target)
	m.adoption, m.value.Adoption = nil, nil
	if !r.source.foreign { // its names are its own until it has ended, and unlinks them
		m.moveNames(r.target)
	}
	m.d.tasks.Go(func() { m.watch(r.target, r.events) })
	m.noteLocked()
}

// endLocked frees the VM for what comes next, and tells whether the VM has ended with the handoff.
func (r *run) endLocked(v vmstate.Migration) (gone bool) {
	m := r.m
	m.handoff = nil
	m.tracing.Store(nil)
	switch v.Phase {
	case vmstate.Completed:
		m.promoteLocked()
		r.source.hangUp()
		if !r.source.dead() {
			break // it is said in the migration's warnings; its watcher waits for it
		}
		m.forgetGenerationLocked(r.source.number)
		if r.source.foreign {
			m.inheritNames(r.source, r.target)
		}
		if err := r.source.side.Process.Release(); err != nil {
			m.log.Warn().Err(err).Msg("source not let go of")
		}
	case vmstate.Failed: // everything is left as it is, for a person to look at
		m.ending, m.status = v.Error, vmstate.Broken
		if m.current == r.target && m.current.dead() && r.source.dead() { // it had the guest, and not all of it: mode postcopy
			return r.lostLocked(v)
		}
		r.leaveUndecidedLocked(v)
		m.noteLocked()
		return false
	default:
		m.demoteLocked()
		if err := m.openPorts(context.Background(), r.source); err != nil && !r.source.dead() {
			m.log.Warn().Err(err).Msg("ports not opened again")
		}
		if r.target != nil {
			r.dropTarget()
		}
		if m.adoption != nil && m.current != nil {
			m.value.Regions = m.ownedBy(m.current) // not what it was to be moved into
		}
	}
	if m.current.dead() {
		m.log.Info().Msg("the guest ended while it was being handed over")
		m.stopLocked("")
		return true
	}
	m.noteLocked()
	return false
}

// lostLocked ends a VM both of whose QEMUs have died with a part of the guest each, and says why.
func (r *run) lostLocked(v vmstate.Migration) (gone bool) {
	m, forgotten := r.m, r.m.asked.Remove
	r.source.hangUp()
	if err := r.source.side.Process.Release(); err != nil {
		m.log.Warn().Err(err).Msg("source not let go of")
	}
	m.stopLocked("")
	if !forgotten {
		m.ending, m.status = v.Error, vmstate.Broken
		m.publishLocked()
	}
	return true
}

// leaveUndecidedLocked keeps both QEMUs of a failed handoff, unless it is certain that the target never ran the guest and never will.
func (r *run) leaveUndecidedLocked(v vmstate.Migration) {
	m := r.m
	mayHaveRun := len(v.Phases) > 1 && v.Phases[len(v.Phases)-2].Phase == vmstate.Committing
	switch {
	case r.target == nil:
	case r.target.dead() && !mayHaveRun && !r.handoff.Away():
		r.dropTarget()
	default:
		m.undecided, m.stray = true, r.target
		if r.events != nil {
			r.events.Close()
		}
		m.d.tasks.Go(func() { m.await(r.target, "") })
		m.d.tasks.Go(m.keepListening)
	}
}

// dropTarget clears away a target that never had the guest; it is dead.
func (r *run) dropTarget() {
	if r.events != nil {
		r.events.Close()
	}
	r.m.forgetGenerationLocked(r.target.number)
	if err := r.target.discard(); err != nil {
		r.m.log.Warn().Err(err).Msg("target not cleared away")
	}
}

// run does the handoff.
func (r *run) run(ctx context.Context) {
	_, err := r.handoff.Run(ctx)
	m, result := r.m, r.handoff.Migration()
	m.noteMigration(result)
	m.d.metrics.handedOver(result)
	log := m.log.Info()
	if err != nil {
		log = m.log.Warn().Err(err)
	}
	log.Str("migration", result.ID).Str("phase", string(result.Phase)).Interface("pause_us", result.PauseUS).Msg("handoff ended")
	m.mu.Lock()
	g := m.current
	m.mu.Unlock()
	if g == nil || result.Phase == vmstate.Failed {
		return
	}
	if result.Phase == vmstate.Completed {
		m.d.definitions.change(m.spec.Name, func(def *definition.Definition) { def.Spec.Binary = g.binary.Path })
		if r.memory != nil {
			m.noteMemory()
		}
	}
	look, cancel := context.WithTimeout(context.WithoutCancel(ctx), lookLimit)
	defer cancel()
	if err := m.refresh(look, g); err != nil && !errors.Is(err, qmp.ErrClosed) {
		m.log.Warn().Err(err).Msg("run state not read")
	}
}

// lookLimit bounds the question after a handoff what the guest does.
const lookLimit = 5 * time.Second
