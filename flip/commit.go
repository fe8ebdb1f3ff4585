package flip

import (
	"context"
	"errors"
	"time"

	"qlive/internal/qmp"
	"qlive/vmstate"
)

// Limits after the point of no return. They bound how long qlive waits for a word from QEMU, not what the guest feels.
const (
	contLimit = 30 * time.Second // for the target's answer to cont: it re-opens images and may wait for their locks
	quitLimit = 5 * time.Second  // for the source to end by itself before it is killed
)

// refusal is QEMU's own "no" to cont: the proof that the target never ran (vm_start is the last thing that qmp_cont does).
type refusal struct{ err error }

func (r *refusal) Error() string { return "cannot run the target: " + r.err.Error() }
func (r *refusal) Unwrap() error { return r.err }

func refusedToRun(err error) bool {
	_, ok := errors.AsType[*refusal](err)
	return ok
}

// commit is the point of no return: the journal says that the target may run, then the target is told to. A guest that was
// paused stays so, and the record itself is the switch.
func (h *Handoff) commit(pause context.Context) error {
	if err := context.Cause(pause); err != nil {
		return h.explain(pause, "commit", err) // max_pause_ms has been reached: nothing is lost yet
	}
	if err := h.transition(vmstate.Committing); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(pause), contLimit)
	defer cancel()
	if h.resume {
		if err := h.step(ctx, step{name: "run-target", do: h.runTarget}); err != nil {
			return err
		}
	}
	return h.transition(vmstate.Committed)
}

func (h *Handoff) runTarget(ctx context.Context) error {
	events := h.target.Monitor.Subscribe()
	defer events.Close()
	err := h.target.first(ctx, "when it was told to run", h.target.Monitor.Cont)
	if qerr, ok := errors.AsType[*qmp.Error](err); ok {
		return &vmstate.Error{
			Kind: vmstate.QEMU, Detail: "cannot run the guest in the target: QEMU refuses", Words: []string{qerr.Desc},
			Remedy: "see what QEMU says; the guest goes on in the source", Err: &refusal{err},
		}
	}
	if err != nil {
		return err
	}
	h.notePause(time.Now())
	resumed, err := events.Until(ctx, qmp.Named(qmp.EventResume))
	if err != nil {
		return err
	}
	h.noteResume(resumed.QEMUTime)
	return nil
}

// drain ends the source and sees it dead. What goes wrong here does not touch the guest, which runs in the target.
func (h *Handoff) drain(ctx context.Context) {
	h.way.close()
	h.flipped()
	h.noteExtra()
	if err := h.transition(vmstate.Draining); err != nil {
		h.cfg.Log.Error().Err(err).Msg("phase not entered")
	}
	if err := h.step(ctx, step{name: "end-source", do: h.endSource}); err != nil {
		h.warn("the source QEMU with pid %d is not seen dead: %v", h.cfg.Source.Process.PID(), err)
		return
	}
	h.released()
}

func (h *Handoff) endSource(ctx context.Context) error {
	source := h.cfg.Source
	quit, cancel := context.WithTimeout(ctx, quitLimit)
	defer cancel()
	if err := source.Monitor.Quit(quit); err == nil {
		select {
		case <-source.Gone():
			return nil
		case <-quit.Done():
		}
	}
	return source.kill(ctx)
}

// pauseClock holds the ends of the pause as QEMU's own clocks tell them.
type pauseClock struct {
	qemuStop time.Time
}

// notePause closes the pause that began when stop was sent.
func (h *Handoff) notePause(end time.Time) {
	if h.stopped.IsZero() {
		return
	}
	us := end.Sub(h.stopped).Microseconds()
	h.trace.add(laneHandoff, "pause", h.stopped, end, nil)
	h.mu.Lock()
	h.m.PauseUS = &us
	h.mu.Unlock()
}

// noteResume closes QEMU's own pause. Both QEMUs stamp their events with the same host's clock.
func (h *Handoff) noteResume(at time.Time) {
	if h.pause.qemuStop.IsZero() {
		return
	}
	us := at.Sub(h.pause.qemuStop).Microseconds()
	h.mu.Lock()
	h.m.QEMUPause = &us
	h.mu.Unlock()
}
