package flip

import (
	"cmp"
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

// refusal is the proof that the target, though told to, has never run. It is QEMU's own "no" to cont (vm_start is the last thing that qmp_cont
// does), or that QEMU has died without having said RESUME, which it writes to its monitors before the first vCPU goes on (vm_prepare_start).
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
	if h.target.ended() {
		return h.explain(pause, "commit", h.target.died("when it had loaded the guest"))
	}
	if err := h.transition(vmstate.Committing); err != nil {
		return err
	}
	limit := cmp.Or(h.cfg.ContLimit, contLimit)
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(pause), limit,
		vmstate.Errorf(vmstate.Timeout, "the target has been told to run the guest, and has not answered for %s", limit))
	defer cancel()
	if err := h.mode.commit(ctx); err != nil {
		return err
	}
	switch {
	case h.resume:
		h.noteGuest(qmp.RunRunning)
	case h.runState == string(qmp.RunPostMigrate): // a word for the source, which has not come along
		h.noteGuest(qmp.RunPaused)
	default:
		h.noteGuest(qmp.RunState(h.runState))
	}
	h.mustEnter(vmstate.Committed)
	return nil
}

// mustEnter enters a phase of a handoff that has succeeded. The guest is in the target, whatever else goes wrong: a journal that cannot be
// written is no reason to call it anything else.
func (h *Handoff) mustEnter(to vmstate.Phase) {
	if err := h.transition(to); err != nil {
		h.cfg.Log.Error().Err(err).Str("phase", string(to)).Msg("phase not in the journal")
		h.mu.Lock()
		h.enterLocked(to)
		h.mu.Unlock()
		h.publish()
	}
}

func (h *Handoff) runTarget(ctx context.Context) error {
	if err := h.may(vmstate.ActRunTarget); err != nil {
		return err
	}
	events := h.target.Monitor.Subscribe(qmp.EventResume)
	defer events.Close()
	cont, err := h.cont(ctx)
	if err != nil { // not sent, so not obeyed
		return err
	}
	h.told = true
	if err := cont.Wait(ctx, nil); err != nil {
		return h.target.proven(ctx, err, events)
	}
	h.ran = true
	h.notePause(cont.Received())
	resumed, err := events.Next(ctx)
	if err != nil {
		h.warn("QEMU has obeyed cont and does not say RESUME: %v", err)
		return nil
	}
	h.noteResume(resumed.QEMUTime)
	return nil
}

// proven makes of err, with which a QEMU has not obeyed cont, a refusal if it proves that it has never run: its word, or its death without RESUME
// among the events that were listened to before. QEMU hangs up on a monitor only as it ends, which may take it a while.
func (s *Side) proven(ctx context.Context, err error, events *qmp.Subscription) error {
	if qerr, ok := errors.AsType[*qmp.Error](err); ok {
		return refused(qerr.Desc, err)
	}
	if !errors.Is(s.Monitor.Err(), qmp.ErrClosed) {
		return err
	}
	select {
	case <-s.Gone():
	case <-ctx.Done():
		return err
	}
	resumed := false
	rest(events, func(qmp.Event) { resumed = true })
	died := s.died("when it was told to run")
	if e, ok := errors.AsType[*vmstate.Error](died); ok && !resumed {
		e.Err = &refusal{errors.New(err.Error())} // not err itself: that a monitor has ended would be looked into once more
	}
	return died
}

func refused(word string, err error) error {
	return &vmstate.Error{
		Kind: vmstate.QEMU, Step: "run-target", Detail: "cannot run the guest in the target", Words: []string{word},
		Remedy: "see what QEMU says; the guest goes on in the source", Err: &refusal{err},
	}
}

// drain lets what is left of the guest in the source follow it, ends the source and sees it dead. What goes wrong once nothing is left there does
// not touch the guest, which runs in the target; an error means that it has not come whole.
func (h *Handoff) drain(ctx context.Context) error {
	h.way.close()
	if err := h.mode.drain(ctx); err != nil {
		return err
	}
	if err := h.step(ctx, step{name: "end-source", do: h.endSource}); err != nil {
		h.warn("the target runs the guest, but: %v", err)
	}
	if err := h.cfg.Source.kill(ctx); err != nil { // whatever has come of the step: two of them must not stay
		h.warn("the source QEMU with pid %d is not seen dead: %v", h.cfg.Source.Process.PID(), err)
		return nil
	}
	h.released()
	if h.cfg.Alone != nil {
		if err := h.cfg.Alone(ctx); err != nil {
			h.warn("the guest runs in the new QEMU, but: %v", err)
		}
	}
	if err := takeBackCapability(ctx, h.target.Monitor); err != nil && !h.target.EndedSoon() {
		h.logf("the target keeps a capability: %v", err)
	}
	return nil
}

// endSource ends a QEMU that has nothing to do any more. One whose guest was stopped by the handoff has flushed and let go of its images:
// it is killed, so that nobody can let it run meanwhile. One whose guest stood already still has them, and closes them as it quits.
func (h *Handoff) endSource(ctx context.Context) error {
	if err := h.may(vmstate.ActEndSource); err != nil {
		return err
	}
	source := h.cfg.Source
	if h.resume {
		return source.kill(ctx)
	}
	if source.quit(ctx) {
		return nil
	}
	return source.kill(ctx)
}

// quit asks a QEMU to end by itself, and tells whether it has.
func (s *Side) quit(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, quitLimit)
	defer cancel()
	if err := s.Monitor.Quit(ctx); err != nil {
		return false
	}
	select {
	case <-s.Gone():
		return true
	case <-ctx.Done():
		return false
	}
}

// notePause closes the pause that began when stop was sent.
func (h *Handoff) notePause(end time.Time) {
	if h.stopped.IsZero() {
		return
	}
	us := end.Sub(h.stopped).Microseconds()
	h.trace.add(lanePause, "pause", h.stopped, end, nil)
	h.mu.Lock()
	h.m.PauseUS = &us
	h.mu.Unlock()
}

// noteResume closes QEMU's own pause. Both QEMUs stamp their events with the same host's clock.
func (h *Handoff) noteResume(at time.Time) {
	if h.qemuStop.IsZero() {
		return
	}
	us := at.Sub(h.qemuStop).Microseconds()
	h.mu.Lock()
	h.m.QEMUPause = &us
	h.mu.Unlock()
}
