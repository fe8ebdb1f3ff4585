package daemon

import (
	"context"
	"errors"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"qlive/daemon/record"
	"qlive/flip"
	"qlive/flip/memory"
	"qlive/internal/journal"
	"qlive/internal/qemu"
	"qlive/internal/qemu/cmdline"
	"qlive/internal/qmp"
	"qlive/vmstate"
)

const (
	monitorLimit    = 20 * time.Second // for a QEMU to answer on its monitor after its start
	defaultHugePage = 2 << 20          // bytes; of a line that asks for huge pages and does not say which
)

// machine is one VM.
type machine struct {
	d      *Daemon
	log    zerolog.Logger
	spec   vmstate.VMSpec // Binary is that of the first generation
	facts  cmdline.Facts
	memory *memory.Set
	place  place
	// objects are the ids of the RAM blocks' memory backends, by the block's name.
	objects map[string]string
	// journal is that of the VM's handoffs; it outlives the daemon.
	journal *journal.Journal

	// gate is held by whoever changes what the guest does: pause, resume, reset, or a handoff that switches.
	gate sync.Mutex

	keyboard  keyboard
	resolving sync.Mutex // held by whoever decides of a handoff that has failed

	identities []memory.Identity   // of the memory, written down
	written    []record.Generation // QEMUs that are written down: all that may be alive
	lastKeeper int                 // number of the generation that last had the guest; record.None before any

	mu        sync.Mutex
	current   *generation // the QEMU that has the guest; nil once it has ended
	number    int         // of the next generation
	completed int         // handoffs
	handoff   *flip.Handoff
	leaving   bool // it shall go once the guest has powered off
	// undecided: a handoff has failed, and either of current and stray may run the guest. Nothing touches them but a forced removal.
	discarded bool // a person has had it ended
	undecided bool
	stray     *generation
	ending    *vmstate.Problem
	unfit     error // why the VM cannot be handed over; nil if it can
	mute      error // said while the QEMU of a VM that was taken up does not answer
	names     publicNames
	past      []string // binaries that had the guest before, oldest first
	logs      []string // of QEMU, generation by generation
	consoles  []string
	restarts  int            // by itself, since somebody started it
	restartAt *time.Time     // when it is started anew; nil if it is not
	noRestart chan struct{}  // closed to give that up
	whyAgain  string         // it was started anew; empty if it was not
	status    vmstate.Status // but for a handoff that switches
	value     vmstate.VM
	settled   chan struct{} // closed once QEMU has ended and the VM is seen as stopped
	released  chan struct{} // closed when the daemon lets go of a VM that runs on

	tracing atomic.Pointer[tracing]     // nil if no handoff is under way
	binary  atomic.Pointer[shownBinary] // of the QEMU that has the guest; nil if there is none
}

// publish shows the VM as it is now.
func (m *machine) publishLocked() {
	v := m.value
	v.Generation, v.ConsoleLog, v.QEMULog = m.completed, slices.Clone(m.consoles), slices.Clone(m.logs)
	v.Error = m.ending
	v.Restart, v.Autostart, v.Restarts, v.RestartAt = m.spec.Restart.OrNever(), m.spec.Autostart, m.restarts, m.restartAt
	v.PID = 0
	m.binary.Store(nil)
	if g := m.current; g != nil {
		v.PID = g.side.Process.PID()
		v.QEMU = vmstate.QEMUInfo{
			Binary: g.binary.Path, Version: g.side.Version, Package: g.info.Package, Outdated: g.binary.Unchanged() != nil,
		}
		v.Argv = append([]vmstate.Arg{{Value: g.binary.Path}}, g.line.Args...)
		v.UptimeS = int64(time.Since(v.StartedAt).Seconds())
		m.binary.Store(&shownBinary{g.binary, v.QEMU.Outdated})
	}
	v.Status = m.status
	if m.handoff != nil {
		switch m.handoff.Migration().Phase {
		case vmstate.Switching, vmstate.Committing:
			v.Status = vmstate.Migrating
		}
	}
	m.value = v
	m.d.registry.putVM(v)
}

// setRunState notes QEMU's word for what the guest does.
func (m *machine) setRunStateLocked(state qmp.RunState) {
	m.value.RunState = string(state)
	switch state {
	case qmp.RunRunning:
		m.status = vmstate.Running
	case qmp.RunPaused, qmp.RunPrelaunch, qmp.RunPostMigrate, qmp.RunSuspended:
		m.status = vmstate.Paused
	case qmp.RunShutdown:
		m.status = vmstate.Paused // QEMU is there (-no-shutdown), the guest is not
	default: // io-error, guest-panicked, internal-error, watchdog: the guest stands, and somebody should look
		m.status = vmstate.Paused
	}
}

// refresh asks QEMU what the guest does, and shows it.
func (m *machine) refresh(ctx context.Context, g *generation) error {
	status, err := g.side.Monitor.QueryStatus(ctx)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.current == g && !m.undecided {
		m.setRunStateLocked(status.Status)
		m.publishLocked()
	}
	return nil
}

// watch follows what QEMU says of the guest until it has ended. It is the one place where the end of a VM is noticed.
func (m *machine) watch(g *generation, events *qmp.Subscription) {
	defer events.Close()
	m.mu.Lock()
	g.followed = true
	m.mu.Unlock()
	var last string
	for {
		e, err := events.Next(context.Background()) // ends with the connection
		if err != nil {
			break
		}
		switch e.Name {
		case qmp.EventShutdown, qmp.EventGuestPanicked:
			last = e.Name + " " + string(e.Data)
			m.log.Info().Str("event", e.Name).RawJSON("data", orNull(e.Data)).Msg("guest ended")
		}
		if m.switching() {
			continue // the handoff tells what becomes of it
		}
		if err := m.refresh(context.Background(), g); err != nil && !errors.Is(err, qmp.ErrClosed) {
			m.log.Warn().Err(err).Msg("run state not read")
		}
	}
	m.await(g, last)
}

// await waits for the end of a QEMU that has the guest, or may have it.
func (m *machine) await(g *generation, last string) {
	select {
	case <-g.side.Gone():
		m.ended(g, last)
	case <-m.released: // the daemon ends, the guest runs on
	}
}

func orNull(b []byte) []byte {
	if len(b) == 0 {
		return []byte("null")
	}
	return b
}

// switching tells whether a handoff is at the point where what QEMU says of the guest is only half of the truth.
func (m *machine) switching() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.handoff == nil {
		return false
	}
	switch m.handoff.Migration().Phase {
	case vmstate.Switching, vmstate.Committing, vmstate.Committed:
		return true
	}
	return false
}

// ended is called once for each generation that had the guest, or may have had it, when its process is seen dead.
func (m *machine) ended(g *generation, last string) {
	g.hangUp()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.current != g && m.stray != g || m.handoff != nil {
		return // it has been replaced, or the handoff finds it dead and says what follows
	}
	if m.undecided && !(m.current.dead() && m.stray.dead()) {
		return // the other may run the guest
	}
	m.stopLocked(last)
}

// stopLocked notes that the VM has no QEMU any more, and lets go of everything that it held.
func (m *machine) stopLocked(last string) {
	g := m.current
	exit, _ := g.side.Process.Exited()
	m.log.Info().Str("exit", exit.String()).Msg("QEMU ended")
	m.current = nil
	m.status, m.value.RunState = vmstate.Stopped, "none"
	over := g.guestEnded() || m.discarded
	if m.discarded {
		m.ending = nil // what was to be decided has been
	}
	if brokeOff(g, exit, over) {
		p := g.side.Process.Ended("go on with " + m.spec.Name)
		p.VM, p.Remedy = m.spec.Name, "see QEMU's log; start it again with `qlive start "+m.spec.Name+"`"
		m.ending = vmstate.ProblemOf(p)
		if !over {
			m.status = vmstate.Broken
		}
	} else if last != "" {
		m.log.Info().Str("why", last).Msg("guest powered off")
	}
	m.value.Regions = nil
	m.names.remove()
	m.d.custody.release(m.spec.Name)
	err := errors.Join(m.memory.Close(), g.side.Process.Release(), m.journal.Close())
	if m.stray != nil {
		err = errors.Join(err, m.stray.discard())
	}
	err = errors.Join(err, m.place.remove())
	m.stray, m.undecided, m.discarded, m.mute = nil, false, false, nil
	m.written, m.lastKeeper = nil, record.None
	if err != nil {
		m.log.Warn().Err(err).Msg("not everything was let go of")
	}
	defer close(m.settled)
	if m.leaving {
		m.d.forget(m)
		return
	}
	m.planRestartLocked(time.Since(m.value.StartedAt))
	m.noteLocked()
	m.publishLocked()
}

// brokeOff tells whether a QEMU has ended otherwise than by itself. How one ends that an earlier daemon has started nobody is told: then it is by
// itself if it has said SHUTDOWN, or has removed its socket, as QEMU does on its way out.
func brokeOff(g *generation, exit qemu.Exit, over bool) bool {
	if exit.Known {
		return exit.Code != 0 || exit.Signal != 0
	}
	_, err := os.Lstat(g.line.Monitor)
	return !over && err == nil
}

// launch starts the VM's first QEMU: checked before the guest's first instruction, then let go.
func (m *machine) launch(ctx context.Context, binary *qemu.Binary) (err error) {
	p, err := m.planGeneration(ctx, binary, 0, false)
	if err != nil {
		return err
	}
	if m.memory, err = memory.Create(m.spec.Memory, m.spec.Name, wants(p.line)); err != nil {
		return err
	}
	defer undo(&err, m.memory.Close)
	m.lastKeeper = record.None
	if m.identities, err = m.memory.Identities(); err != nil {
		return err
	}
	if err := m.place.user.Own(m.memory.Files()); err != nil {
		return err
	}
	g, err := m.startGeneration(ctx, p)
	if g != nil {
		defer undo(&err, g.discard)
	}
	if err != nil {
		return err
	}
	if err := m.checkFirst(ctx, g); err != nil {
		return err
	}
	m.d.custody.keep(m.spec.Name, m.memory)
	defer undo(&err, func() error { m.d.custody.release(m.spec.Name); return nil })
	if m.names, err = newPublicNames(m.spec.Dir, p.line.Names); err != nil {
		return err
	}
	defer undo(&err, func() error { m.names.remove(); return nil })
	if m.journal, err = journal.Open(m.d.cfg.vmDir(m.spec.Name) + "/journal"); err != nil {
		return err
	}
	defer undo(&err, m.journal.Close)
	if err := m.writeFirst(g); err != nil {
		return err
	}
	events := g.side.Monitor.Subscribe()
	if !p.line.Paused {
		if err := g.side.Monitor.Cont(ctx); err != nil {
			events.Close()
			return vmstate.Errorf(vmstate.QEMU, "cannot let the guest run: %w", err)
		}
	}
	m.begin(g)
	m.d.tasks.Go(func() { m.watch(g, events) })
	// The guest runs: from here on nothing is undone, and if it has ended already the watcher says so.
	if err := m.refresh(context.WithoutCancel(ctx), g); err != nil {
		m.log.Warn().Err(err).Msg("run state not read")
	}
	return nil
}

// undo runs f if the function that defers it fails.
func undo(err *error, f func() error) {
	if *err != nil {
		*err = errors.Join(*err, f())
	}
}

// checkFirst makes sure, before the guest's first instruction, that it can be handed over at all.
func (m *machine) checkFirst(ctx context.Context, g *generation) error {
	migration, err := g.side.Monitor.QueryMigrate(ctx)
	if err != nil {
		return err
	}
	if len(migration.BlockedReasons) > 0 {
		return &vmstate.Error{
			Kind: vmstate.Unsupported, VM: m.spec.Name, Detail: "cannot start " + m.spec.Name + ": QEMU says that this guest could never be handed over",
			Words: migration.BlockedReasons, Remedy: "leave out the device or the option that QEMU names",
		}
	}
	return m.learnBlocks(ctx, g)
}

// begin makes g the QEMU that has the guest.
func (m *machine) begin(g *generation) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.current, m.number, m.lastKeeper = g, g.number+1, g.number
	m.logs = append(m.logs, g.log())
	if c := g.console(); c != "" {
		m.consoles = append(m.consoles, c)
	}
	m.status = vmstate.Starting
	m.value = vmstate.VM{
		Name: m.spec.Name, StartedAt: m.value.StartedAt, Machine: m.facts.Machine.Name,
		Warnings: slices.Concat(g.line.Warnings, m.memory.Warnings(), m.place.warnings()),
	}
	if m.whyAgain != "" {
		m.value.Warnings = append(m.value.Warnings, m.whyAgain)
	}
	for _, r := range m.memory.Regions() {
		v := r.Value().Reset(g.side.Process.PID())
		m.value.Regions = append(m.value.Regions, v)
		m.value.RAMBytes += v.SizeBytes
	}
	m.noteLocked()
	m.publishLocked()
}

// control does something with the guest that a handoff must not be in the middle of.
func (m *machine) control(ctx context.Context, what string, do func(context.Context, *qmp.Client) error) (vmstate.VM, error) {
	if m.switching() {
		return vmstate.VM{}, m.busy(what)
	}
	m.gate.Lock()
	defer m.gate.Unlock()
	m.mu.Lock()
	g, undecided, mute := m.current, m.undecided, m.mute
	m.mu.Unlock()
	if undecided {
		return vmstate.VM{}, m.nobodyKnows(what)
	}
	if mute != nil {
		return vmstate.VM{}, mute
	}
	if g == nil {
		return vmstate.VM{}, m.notThere(what)
	}
	if err := do(ctx, g.side.Monitor); err != nil {
		return vmstate.VM{}, &vmstate.Error{Kind: vmstate.QEMU, VM: m.spec.Name, Detail: "cannot " + what + " " + m.spec.Name + ": " + err.Error(), Err: err}
	}
	if err := m.refresh(ctx, g); err != nil && !errors.Is(err, qmp.ErrClosed) {
		return vmstate.VM{}, err
	}
	return m.now(), nil
}

func (m *machine) now() vmstate.VM {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.value
}

func (m *machine) busy(what string) error {
	e := vmstate.Errorf(vmstate.Busy, "cannot %s %s: it is being handed over", what, m.spec.Name).With("ask again in a moment")
	e.VM = m.spec.Name
	return e
}

// nobodyKnows is the answer while it is not known which of two QEMUs runs the guest.
func (m *machine) nobodyKnows(what string) error {
	e := vmstate.Errorf(vmstate.Lost, "cannot %s %s: after a failed handoff it is not known which of two QEMUs runs it", what, m.spec.Name).
		With("see the VM's error and both QEMUs' logs; `qlive rm --force " + m.spec.Name + "` ends both")
	e.VM = m.spec.Name
	return e
}

func (m *machine) notThere(what string) error {
	e := vmstate.Errorf(vmstate.Conflict, "cannot %s %s: it has no QEMU", what, m.spec.Name).
		With("start it with `qlive start " + m.spec.Name + "`, or remove it with `qlive rm " + m.spec.Name + "`")
	e.VM = m.spec.Name
	return e
}

// removeFiles removes the folders of the VM: logs, consoles, journal.
func (m *machine) removeFiles() error {
	return errors.Join(os.RemoveAll(m.d.cfg.vmDir(m.spec.Name)), os.RemoveAll(m.d.cfg.beforeDir(m.spec.Name)))
}

// waitForHandoff returns once no handoff is under way.
func (m *machine) waitForHandoff() {
	m.mu.Lock()
	h := m.handoff
	m.mu.Unlock()
	if h != nil {
		<-h.Done()
	}
}

// letGo ends the daemon's part in a VM that runs on.
func (m *machine) letGo() {
	close(m.released)
	m.mu.Lock()
	generations := []*generation{m.current, m.stray}
	m.mu.Unlock()
	for _, g := range generations {
		if g == nil {
			continue
		}
		g.hangUp()
		if err := g.side.Process.Release(); err != nil {
			m.log.Warn().Err(err).Msg("not everything was let go of")
		}
		m.log.Info().Int("pid", g.side.Process.PID()).Msg("guest left running")
	}
	if generations[0] != nil {
		if err := errors.Join(m.journal.Close(), m.memory.LetGo(), m.place.leave()); err != nil {
			m.log.Warn().Err(err).Msg("not everything was let go of")
		}
	}
}
