package flip

import (
	"context"
	"errors"
	"time"

	"qlive/internal/qemu"
	"qlive/internal/qmp"
	"qlive/vmstate"
)

// abandon undoes what has been done and says how it ended. The source has the guest afterwards, unless it is lost.
func (h *Handoff) abandon(ctx context.Context, cause error) (*Side, error) {
	if h.phase() == vmstate.Committing {
		if h.told && !refusedToRun(cause) {
			defer h.openGate() // not before the VM is seen as failed
			h.open, h.silent = !h.torn, !h.torn && !h.target.ended()
			return nil, h.end(vmstate.Failed, h.lost(cause))
		}
		h.writeOff()
	}
	began := time.Now()
	if errors.Is(cause, qmp.ErrClosed) && h.cfg.Source.EndedSoon() {
		cause = h.sourceEnded(cause)
	}
	h.logf("undoing: %v", cause)
	err := h.undo(ctx)
	defer h.openGate()
	if err != nil {
		h.open = h.target != nil && !h.target.ended() || h.away()
		if h.torn { // and how tells why it was undone
			return nil, h.end(vmstate.Failed, err)
		}
		return nil, h.end(vmstate.Failed, h.lost(errors.Join(cause, err)))
	}
	h.mu.Lock()
	if !h.stopped.IsZero() {
		us := time.Since(began).Microseconds()
		h.m.UndoUS = &us
	}
	h.mu.Unlock()
	to := vmstate.RolledBack
	if h.phase().Revocable() && vmstate.KindOf(cause) == vmstate.Cancelled {
		to = vmstate.Aborted
	}
	return h.cfg.Source, h.end(to, cause)
}

// may refuses what the table of phases does not have in this phase. That would be a mistake in qlive.
func (h *Handoff) may(a vmstate.Act) error {
	if p := h.phase(); !p.May(a) {
		return vmstate.Errorf(vmstate.Internal, "cannot %s while the handoff is %s", a, p)
	}
	return nil
}

// sourceEnded says that the guest has ended by itself, or its QEMU has, in the middle of the handoff.
func (h *Handoff) sourceEnded(cause error) error {
	exit, _ := h.cfg.Source.Process.Exited()
	e := vmstate.Errorf(vmstate.Conflict, "cannot hand %s over: its QEMU %s meanwhile", h.cfg.Migration.VM, exit).
		With("if the guest has not powered off by itself, see QEMU's log")
	e.Step, e.VM, e.Migration, e.Err = string(h.phase()), h.cfg.Migration.VM, h.cfg.Migration.ID, cause
	e.Words = h.cfg.Source.Process.Tail(qemu.Words)
	return e
}

func (h *Handoff) lost(cause error) error {
	if h.torn { // it is known how
		return cause
	}
	if h.away() { // it is known who has the guest, though not all of it
		e := h.errAway()
		e.Detail, e.Err, e.Step = e.Detail+": "+cause.Error(), cause, string(h.phase())
		e.VM, e.Migration = h.cfg.Migration.VM, h.cfg.Migration.ID
		return e
	}
	return &vmstate.Error{
		Kind: vmstate.Lost, Step: string(h.phase()), VM: h.cfg.Migration.VM, Migration: h.cfg.Migration.ID,
		Detail: "cannot tell which QEMU runs the guest: " + cause.Error(),
		Remedy: "look at both QEMUs' logs and at the journal before anything is started on this memory again",
		Err:    cause,
	}
}
