package flip

import (
	"cmp"
	"context"
	"encoding/json"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"qlive/flip/memory"
	"qlive/internal/qemu"
	"qlive/internal/qmp"
	"qlive/vmstate"
)

// Failpoints makes named places fail, wait or kill, for tests.
type Failpoints interface {
	Hit(ctx context.Context, name string) error
}

// Config is what a handoff works with.
type Config struct {
	Migration vmstate.Migration     // id, VM and From filled in
	Spec      vmstate.MigrationSpec // with defaults
	Number    int                   // of the target's generation; the VM has no other of it
	Arrived   bool                  // the source was itself handed the guest
	Mode      vmstate.Mode          // never auto; empty for shared
	Why       string                // it is that mode, see [ChooseMode]
	Way       vmstate.Way           // never auto; it can be chosen in mode shared alone, see [wayOf]
	Source    *Side
	// Plan finds out what the target is and whether it can take the guest, before anything is started.
	Plan func(context.Context) (vmstate.QEMUProcess, error)
	// Start starts the target on Memory, stopped and waiting for a stream. What it returns next to an error has
	// been started and must be killed.
	Start      func(context.Context) (*Side, error)
	Memory     *memory.Set
	Objects    map[string]string // RAM block to the id of its memory backend
	Journal    Recorder
	Publish    func(vmstate.Migration) // called with a value of its own each time something changed
	Failpoints Failpoints              // nil for none
	Rehouse    *Rehousing              // mode shared, way device state; nil: guest RAM stays where it is
	// Scripts: the source runs a script as it quits that would take from the target what it has been given. It is killed, then, and a guest that
	// stands, whose images the source has until it quits, is not handed over.
	Scripts bool
	// Alone is called once the source is seen dead, for what the target can have only then; its error is a warning. nil for nothing.
	Alone func(context.Context) error
	// ContLimit is how long the target may take to answer cont before nobody can say who runs the guest; 0 for 30 s.
	ContLimit time.Duration
	// Offer is the path at which a target of mode cpr waits for the descriptors of its memory; Own gives a file to the user that the VM's QEMUs
	// run as, and may be nil.
	Offer string
	Own   func(path string) error
	// Relay starts the process of a relay (package internal/relay) between two sockets, which stay the caller's; mode postcopy, nil for never.
	Relay func(source, target *os.File) (*qemu.Process, error)
	// Gate is held from the last look at the guest until it runs in one of the two: whoever holds it may pause, resume or reset
	// the guest.
	Gate sync.Locker
	// Quiet is called right before the guest is stopped: from then on nothing is said to the source's guest, and readers wait a while. nil for nothing to do.
	Quiet func()
	Log   zerolog.Logger
}

// Handoff is one attempt to hand a guest over. It is made by [New], does its work in [Handoff.Run], once, and may be
// asked for its trace, to continue and to cancel from other goroutines.
type Handoff struct {
	cfg    Config
	mode   mode
	way    way
	ears   ears
	primed primed
	relay  *qemu.Process // mode postcopy: in the middle of the channel; nil for none
	target *Side
	new    rehoused // zero if RAM stays where it is
	trace  *Trace
	undos  []step // by the goroutine of Run only
	gated  bool   // the gate is held

	resume   bool      // the guest ran: it shall run again
	runState string    // its run state before it was stopped
	stopped  time.Time // when stop was sent; zero before
	qemuStop time.Time // QEMU's own stamp of it
	over     string    // the event by which the guest has ended as it was stopped; empty if it has not
	told     bool      // the target may have got cont
	ran      bool      // it has obeyed
	neverRan bool      // it has refused to, or was never told to, and is about to be undone
	open     bool      // the handoff has failed, and it is not certain that only the source can run the guest
	whole    bool      // mode postcopy: all pages have come
	torn     bool      // mode postcopy: neither QEMU has all of the guest, and never will
	sent     bool      // mode postcopy: the source has let go of some of the guest, which the target has never run and qlive brings back
	silent   bool      // because the target, told to run, does not answer

	continued chan struct{}
	done      chan struct{}

	mu        sync.Mutex
	m         vmstate.Migration
	cancel    context.CancelCauseFunc
	cancelled error // why, once somebody has asked
	guest     string
	obeyed    string // see lastObeyed
}

// New makes a handoff; nothing is started.
func New(cfg Config) *Handoff {
	h := &Handoff{cfg: cfg, trace: new(Trace), continued: make(chan struct{}, 1), done: make(chan struct{})}
	h.m = cfg.Migration
	h.m.Phase, h.m.StartedAt = vmstate.Planned, time.Now()
	h.m.Phases = []vmstate.PhaseTime{{Phase: vmstate.Planned, At: h.m.StartedAt}}
	h.cfg.Mode = cmp.Or(cfg.Mode, vmstate.ModeShared)
	h.cfg.Way = wayOf(h.cfg.Mode, cfg.Way)
	h.m.Mode, h.m.Way = h.cfg.Mode, h.cfg.Way
	h.mode, h.way = newMode(h)
	return h
}

// Accept writes down that there is such a handoff, so that whoever is told of it finds it again after the daemon's death. It comes before Run.
func (h *Handoff) Accept() error { return h.write(vmstate.Planned) }

// Migration is the handoff as it stands.
func (h *Handoff) Migration() vmstate.Migration {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.copyLocked()
}

// RunState is what the QEMU that has the guest calls its state, as far as the handoff has changed or learnt it; empty if it has not.
func (h *Handoff) RunState() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.guest
}

func (h *Handoff) noteGuest(state qmp.RunState) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.guest = string(state)
}

// Done is closed when Run has returned.
func (h *Handoff) Done() <-chan struct{} { return h.done }

// Observe puts what one of the two QEMUs was asked into the trace, and notes what the source obeys, whoever has told it.
func (h *Handoff) Observe(source bool, command string, sent, answered time.Time, err error) {
	h.trace.add(laneOf(source), command, sent, answered, err)
	if source && err == nil && (command == "stop" || command == "cont") {
		h.noteObeyed(command)
	}
}

// Heard puts an event of one of the two QEMUs into the trace; data is the object that came with it, nil for none.
func (h *Handoff) Heard(source bool, event string, at time.Time, data json.RawMessage) {
	h.trace.mark(laneOf(source), event, at, data)
}

func (h *Handoff) noteObeyed(command string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.obeyed = command
}

// lastObeyed is what the source has obeyed last, of stop and cont.
func (h *Handoff) lastObeyed() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.obeyed
}

// Trace is where the time went so far, in Chrome's trace format.
func (h *Handoff) Trace() ([]byte, error) { return h.trace.JSON(h.cfg.Migration.ID) }

// Continue lets a handoff that holds in prepared go on. It may be said ahead.
func (h *Handoff) Continue() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.m.Phase.Revocable() {
		return h.tooLateLocked("continue", "only a migration that has not begun to switch can be told to go on")
	}
	select {
	case h.continued <- struct{}{}:
	default: // said before
	}
	return nil
}

// Cancel asks the handoff to end where it is, with the guest in the source as it was. From switching on it is refused.
func (h *Handoff) Cancel(why string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.m.Phase.Revocable() {
		return h.tooLateLocked("cancel", "a handoff can be cancelled until it is switching; afterwards, hand the guest back with a rollback")
	}
	if h.cancelled == nil {
		h.cancelled = vmstate.Errorf(vmstate.Cancelled, "cancelled: %s", why)
		if h.cancel != nil {
			h.cancel(h.cancelled)
		}
	}
	return nil
}

// tooLateLocked refuses what cannot be done in this phase any more.
func (h *Handoff) tooLateLocked(what, remedy string) error {
	e := vmstate.Errorf(vmstate.Conflict, "cannot %s migration %s: it is %s", what, h.m.ID, h.m.Phase).With(remedy)
	e.VM, e.Migration = h.m.VM, h.m.ID
	return e
}

// Run hands the guest over and returns the QEMU that has it now: the target after success, else the source. The error
// says why it is not the target; an error of kind Lost means that a person must decide, and then neither is returned. If
// ctx ends before the guest is stopped, the handoff is undone; afterwards it goes on to its end.
func (h *Handoff) Run(ctx context.Context) (*Side, error) {
	work, cancel := h.begin(ctx)
	defer close(h.done)
	defer h.forget()
	defer cancel(nil)
	err := h.forward(work)
	if err == nil {
		if h.resume {
			h.openGate()
		}
		err := h.drain(context.WithoutCancel(ctx))
		defer h.openGate() // a guest that stands is not let go before the source is gone, which still has its images
		if err != nil {
			h.open = !h.target.ended()
			return nil, h.end(vmstate.Failed, err)
		}
		return h.target, h.end(vmstate.Completed, nil)
	}
	return h.abandon(context.WithoutCancel(ctx), err)
}

func (h *Handoff) begin(ctx context.Context) (context.Context, context.CancelCauseFunc) {
	timeout := time.Duration(h.cfg.Spec.TimeoutS) * time.Second
	timed, stop := context.WithTimeoutCause(ctx, timeout,
		vmstate.Errorf(vmstate.Timeout, "cannot hand %s over within %s", h.cfg.Migration.VM, timeout).
			With("give it more time with timeout_s, or see the log for what took so long"))
	work, cancel := context.WithCancelCause(timed)
	h.mu.Lock()
	h.cancel = cancel
	if h.cancelled != nil {
		cancel(h.cancelled)
	}
	h.mu.Unlock()
	return work, func(cause error) { cancel(cause); stop() }
}

// forward is the handoff as it goes when nothing fails, up to and with committed.
func (h *Handoff) forward(ctx context.Context) error {
	if err := h.step(ctx, step{name: "plan", do: h.plan}); err != nil {
		return err
	}
	if err := h.transition(vmstate.Preparing); err != nil {
		return err
	}
	if err := h.prepare(ctx); err != nil {
		return err
	}
	if err := h.transition(vmstate.Prepared); err != nil {
		return err
	}
	if err := h.step(ctx, step{name: "hold", do: h.hold}); err != nil {
		return err
	}
	h.closeGate()
	if err := h.lastLook(ctx); err != nil {
		return err
	}
	if err := h.run(ctx, h.mode.approach()...); err != nil {
		return err
	}
	if err := h.transition(vmstate.Switching); err != nil {
		return err
	}
	if err := h.run(ctx, h.mode.lastProof()...); err != nil {
		return err
	}
	if h.cfg.Quiet != nil {
		h.cfg.Quiet()
	}
	limit := time.Duration(h.cfg.Spec.MaxPauseMS) * time.Millisecond
	pause, done := context.WithTimeoutCause(context.WithoutCancel(ctx), limit,
		vmstate.Errorf(vmstate.Timeout, "cannot switch %s over within max_pause_ms, %d ms", h.cfg.Migration.VM, h.cfg.Spec.MaxPauseMS).
			With("see the trace for what took so long; allow more with max_pause_ms"))
	defer done()
	if err := h.switchOver(pause); err != nil {
		return err
	}
	return h.commit(pause)
}

func (h *Handoff) closeGate() {
	if !h.gated {
		h.cfg.Gate.Lock()
		h.gated = true
	}
}

func (h *Handoff) openGate() {
	if h.gated {
		h.gated = false
		h.cfg.Gate.Unlock()
	}
}

// forget lets go of what only the handoff itself needs: it is remembered for its trace.
func (h *Handoff) forget() {
	h.way.close()
	h.forgetMemory()
	h.forgetRelay()
	h.mode, h.way, h.undos = nil, nil, nil
}

// plan asks the daemon what the target is.
func (h *Handoff) plan(ctx context.Context) error {
	if err := built(h.cfg.Mode); err != nil {
		return err
	}
	to, err := h.cfg.Plan(ctx)
	if err != nil {
		return err
	}
	h.change(func(m *vmstate.Migration) { m.To = to })
	h.logf("mode %s: %s; %s", h.cfg.Mode, h.cfg.Why, h.mode.why())
	return nil
}

func (h *Handoff) hold(ctx context.Context) error {
	if !h.cfg.Spec.Hold {
		return nil
	}
	h.logf("held in prepared until told to continue")
	select {
	case <-h.continued:
		return nil
	case <-h.cfg.Source.Gone():
		return h.sourceEnded(nil)
	case <-h.target.Gone():
		if h.cfg.Source.EndedSoon() { // and the target with it, by the end of the channel
			return h.sourceEnded(nil)
		}
		return h.target.died("while it waited")
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (h *Handoff) phase() vmstate.Phase {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.m.Phase
}

// change changes the migration's value and publishes it.
func (h *Handoff) change(f func(*vmstate.Migration)) {
	h.mu.Lock()
	f(&h.m)
	h.mu.Unlock()
	h.publish()
}

func (h *Handoff) publish() { h.cfg.Publish(h.Migration()) }

func (h *Handoff) copyLocked() vmstate.Migration {
	m := h.m
	m.Phases = slices.Clone(m.Phases)
	m.Regions = slices.Clone(m.Regions)
	m.Warnings = slices.Clone(m.Warnings)
	m.Log = slices.Clone(m.Log)
	if m.EndedAt == nil {
		m.TotalUS = time.Since(m.StartedAt).Microseconds()
	}
	return m
}
