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

	identities []memory.Identity // of the memory, written down
	// adoption is what was found of a QEMU that qlive did not start; nil once the guest has left it, and for every other VM.
	adoption   *vmstate.Adoption
	next       nextRAM             // that a handoff moves the guest's RAM into
	started    record.Generation   // by an earlier daemon, the last one
	written    []record.Generation // QEMUs that are written down: all that may be alive
	lastKeeper int                 // number of the generation that last had the guest; record.None before any

	mu        sync.Mutex
	current   *generation // the QEMU that has the guest; nil once it has ended
	number    int         // of the next generation
	completed int         // handoffs
	handoff   *flip.Handoff
	// undecided: a handoff has failed, and either of current and stray may run the guest. Nothing touches them but a forced removal.
	undecided bool
	stray     *generation
	asked     record.Asked
	forgotten bool // it is off the list; guarded by the daemon's lock
	ending    *vmstate.Problem
	unfit     error // why the VM cannot be handed over; nil if it can
	noMemory  error // why an earlier daemon's RAM of the guest was not found again; nil if it was, or there was none to find
	noNext    error // the same of the RAM that it was being moved into
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
	over := g.guestEnded() || m.asked.Kill
	switch {
	case m.asked.Kill:
		m.ending = nil // as asked
	case brokeOff(g, exit, over):
		p := g.side.Process.Ended("go on with " + m.spec.Name)
		p.VM, p.Remedy = m.spec.Name, "see QEMU's log; start it again with `qlive start "+m.spec.Name+"`"
		m.ending = vmstate.ProblemOf(p)
		if !over {
			m.status = vmstate.Broken
		}
	case last != "":
		m.log.Info().Str("why", last).Msg("guest powered off")
	}
	m.value.Regions = nil
	m.adoption, m.value.Adoption = nil, nil
	m.names.remove()
	m.d.custody.release(m.spec.Name)
	err := errors.Join(m.memory.Close(), m.next.set.Close(), g.side.Process.Release(), m.journal.Close())
	if m.stray != nil {
		err = errors.Join(err, m.stray.discard())
	}
	err = errors.Join(err, m.place.remove())
	m.stray, m.undecided, m.mute, m.next = nil, false, nil, nextRAM{}
	m.written, m.lastKeeper = nil, record.None
	if err != nil {
		m.log.Warn().Err(err).Msg("not everything was let go of")
	}
	defer close(m.settled)
	if m.asked.Remove {
		m.d.forget(m)
		return
	}
	m.asked = record.Asked{}
	m.planRestartLocked(time.Since(m.value.StartedAt))
	m.noteLocked()
	m.publishLocked()
}

// brokeOff tells whether a QEMU has ended otherwise than by itself. How one ends that an earlier daemon has started nobody is told: then it is by
// itself if it has said SHUTDOWN, or has left no traces of another end.
func brokeOff(g *generation, exit qemu.Exit, over bool) bool {
	if exit.Known {
		return exit.Code != 0 || exit.Signal != 0
	}
	return !over && qemu.BrokeOff(g.line)
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
		if err := errors.Join(m.journal.Close(), m.memory.LetGo(), m.next.set.LetGo(), m.place.leave()); err != nil {
			m.log.Warn().Err(err).Msg("not everything was let go of")
		}
	}
}
