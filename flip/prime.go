package flip

import (
	"context"

	"qlive/internal/qmp"
)

// primed is what the two QEMUs have been sent but for its last byte: the command with which the guest is stopped, and the one with which it runs again.
// What they read of it beforehand they do not read in the pause.
type primed struct{ source, target *qmp.Ahead }

// prime is the last thing before the guest is stopped: from then on nobody else can ask the two QEMUs anything.
func (h *Handoff) prime(ctx context.Context) (err error) {
	if commands := h.way.first(); len(commands) > 0 {
		if h.primed.source, err = h.cfg.Source.Monitor.Ahead(ctx, commands...); err != nil {
			return err
		}
	}
	if h.resume {
		h.primed.target, err = h.target.Monitor.Ahead(ctx, qmp.Command{Name: "cont"})
	}
	return err
}

// unprime makes the two forget what they have been sent and not been made to do.
func (h *Handoff) unprime(ctx context.Context) error {
	h.primed.source.Drop(ctx)
	h.primed.target.Drop(ctx)
	return nil
}

// cont tells the target to run.
func (h *Handoff) cont(ctx context.Context) (*qmp.Call, error) {
	if h.primed.target == nil {
		return h.target.Monitor.Start(ctx, "cont", nil)
	}
	calls, err := h.primed.target.Start(ctx)
	if err != nil {
		return nil, err
	}
	return calls[0], nil
}
