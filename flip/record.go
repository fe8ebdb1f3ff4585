package flip

import (
	"time"

	"qlive/flip/recovery"
	"qlive/vmstate"
)

// Recorder keeps the journal. Record returns once the record will outlive the daemon; it is called inside the pause, so
// it must cost microseconds.
type Recorder interface {
	Record(Record) error
}

// Record is what the journal says of a handoff: enough to know who may run the guest.
type Record struct {
	Migration string           `json:"migration"`
	VM        string           `json:"vm"`
	Phase     vmstate.Phase    `json:"phase"`
	Source    ProcessID        `json:"source"`
	Target    ProcessID        `json:"target,omitzero"`
	RunState  string           `json:"run_state,omitempty"` // of the guest before it was stopped
	Mode      vmstate.Mode     `json:"mode,omitempty"`      // empty if it was written before there were others than shared
	Way       vmstate.Way      `json:"way,omitempty"`
	Error     *vmstate.Problem `json:"error,omitempty"`
	// NeverRan, in committing: the target has refused to run, or was never told to, and only the undo is left.
	NeverRan bool `json:"never_ran,omitempty"`
	// Undecided, in failed: the target may have run; a person must decide.
	Undecided bool `json:"undecided,omitempty"`
	// Sent, in committing and failed, mode postcopy: the source has let go of some of the guest, and qlive is about to bring that back, or has failed to. What it
	// has of it is only in the daemon.
	Sent bool `json:"sent,omitempty"`
	// Whole, from draining on, mode postcopy: all pages have come.
	Whole bool `json:"whole,omitempty"`
	// Silent, in failed: it has failed only because one of the two did not answer. It is decided once that one does.
	Silent bool `json:"silent,omitempty"`
	// Resolve, in failed: what a person has decided, or the end of the silence; Settled: and it has been done.
	Resolve recovery.Choice `json:"resolve,omitempty"`
	Settled bool            `json:"settled,omitempty"`
}

// Open tells whether it is that of a handoff that has failed, of which nothing has been decided and done yet.
func (r Record) Open() bool { return r.Phase == vmstate.Failed && !r.Settled }

// ProcessID names a process for longer than its pid lasts.
type ProcessID struct {
	PID       int    `json:"pid"`
	StartTime uint64 `json:"start_time"` // field 22 of /proc/PID/stat, clock ticks since boot
	Dir       string `json:"dir"`        // folder of its generation: monitor, console, log
}

// writeOff puts into the journal that the target, though committed to, has never run and never will. Without that record a daemon that took
// over in the middle of the undo would find a dead target that may have run; if it cannot be written the undo is still right.
func (h *Handoff) writeOff() {
	h.neverRan = true
	if err := h.record(vmstate.Committing, nil); err != nil {
		h.cfg.Log.Error().Err(err).Msg("journal not written: the target has never run")
	}
}

// transition journals the phase, then enters it, then publishes it. An edge that is not in the table is a mistake in qlive.
func (h *Handoff) transition(to vmstate.Phase) error {
	h.mu.Lock()
	from := h.m.Phase
	if h.cancelled != nil && from.Revocable() && !to.Ended() {
		h.mu.Unlock()
		return h.cancelled
	}
	h.mu.Unlock()
	if !from.CanBecome(to) {
		return vmstate.Errorf(vmstate.Internal, "cannot go from phase %s to %s", from, to)
	}
	if err := h.write(to); err != nil {
		return err
	}
	h.mu.Lock()
	if h.cancelled != nil && from.Revocable() && !to.Ended() {
		defer h.mu.Unlock()
		return h.cancelled
	}
	h.enterLocked(to)
	h.mu.Unlock()
	if to != vmstate.Committing { // published with committed: nobody is woken inside the pause
		h.publish()
	}
	return nil
}

func (h *Handoff) enterLocked(to vmstate.Phase) {
	now := time.Now()
	if n := len(h.m.Phases); n > 0 {
		h.m.Phases[n-1].US = now.Sub(h.m.Phases[n-1].At).Microseconds()
	}
	h.m.Phases = append(h.m.Phases, vmstate.PhaseTime{Phase: to, At: now})
	h.m.Phase = to
	h.trace.mark(laneHandoff, "phase "+string(to), now, nil)
}

// end enters an end, with the problem that led there, and gives back the error that Run returns.
func (h *Handoff) end(to vmstate.Phase, cause error) error {
	var problem *vmstate.Problem
	if cause != nil {
		problem = vmstate.ProblemOf(cause)
	}
	if err := h.record(to, problem); err != nil {
		h.cfg.Log.Error().Err(err).Str("phase", string(to)).Msg("journal not written")
	}
	h.mu.Lock()
	if h.m.Phase.CanBecome(to) {
		h.enterLocked(to)
	} else if h.m.Phase != to {
		h.cfg.Log.Error().Str("from", string(h.m.Phase)).Str("to", string(to)).Msg("phase not in the table")
		h.enterLocked(to)
	}
	now := time.Now()
	h.m.EndedAt, h.m.TotalUS = &now, now.Sub(h.m.StartedAt).Microseconds()
	h.m.Error = problem
	h.resetRegionsLocked(to)
	h.mu.Unlock()
	h.publish()
	return cause
}

// write records a phase that is about to be entered.
func (h *Handoff) write(phase vmstate.Phase) error {
	if err := h.record(phase, nil); err != nil {
		return notWritten(phase, err)
	}
	return nil
}

// notWritten is the error of a step that is not taken, since the journal does not have it.
func notWritten(phase vmstate.Phase, err error) error {
	return vmstate.Errorf(vmstate.Host, "cannot write phase %s into the journal: %w", phase, err).With("make room in the run directory")
}

func (h *Handoff) record(phase vmstate.Phase, problem *vmstate.Problem) error {
	r := Record{
		Migration: h.cfg.Migration.ID, VM: h.cfg.Migration.VM, Phase: phase, Source: h.cfg.Source.ID(),
		RunState: h.runState, Mode: h.cfg.Mode, Way: h.cfg.Way, Error: problem,
		NeverRan: h.neverRan && phase == vmstate.Committing, Sent: h.sent, Undecided: h.open && phase == vmstate.Failed,
		Silent: h.silent && phase == vmstate.Failed, Whole: h.whole,
	}
	if h.target != nil {
		r.Target = h.target.ID()
	}
	return h.cfg.Journal.Record(r)
}
