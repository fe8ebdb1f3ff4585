package flip

import (
	"context"
	"time"

	"qlive/vmstate"
)

// A way is how the guest is switched over once the target is prepared. All of them start from a target that waits for a
// stream on the same RAM, and end with a target that has loaded everything and stands still.
type way interface {
	// prepare does what can be done while the guest runs. It registers nothing: the fence undoes the target's part, and close
	// what qlive holds.
	prepare(context.Context) error
	// switchOver stops the guest, if it runs, and brings its state into the target. It sets h.stopped.
	switchOver(context.Context) error
	// settle brings the source to where it obeys `cont`, after the target is dead.
	settle(context.Context) error
	// close lets go of what qlive holds of the channel. It may be called at any time and more than once.
	close()
}

func newWay(w vmstate.Way, h *Handoff) way {
	switch w {
	case vmstate.WayStopFirst:
		return &migrateWay{h: h}
	case vmstate.WayLive:
		return &migrateWay{h: h, live: true}
	default:
		return &deviceWay{h: h}
	}
}

// ChooseWay is the way that is taken if none is asked for. Device state only has the shortest pause, which does not grow with
// RAM, and is the only one in which the source enters no migration, so that undoing it is a plain `cont` and leaves a paused
// guest paused. See docs/decisions.md for the evidence.
func ChooseWay(asked vmstate.Way) vmstate.Way {
	if asked == "" || asked == vmstate.WayAuto {
		return vmstate.WayDeviceState
	}
	return asked
}

// switchOver stops the guest and moves its state; undone, the guest goes on in the source.
func (h *Handoff) switchOver(ctx context.Context) error {
	return h.step(ctx, step{name: "switch", do: h.way.switchOver, undo: h.giveBack})
}

// giveBack lets the guest go on in the source as it was. The fence comes first: not before the target is dead.
func (h *Handoff) giveBack(ctx context.Context) error {
	if err := h.fence(ctx); err != nil {
		return err
	}
	source := h.cfg.Source
	if source.ended() {
		return nil // the guest has gone of itself; the daemon reports how
	}
	if err := h.way.settle(ctx); err != nil {
		return err
	}
	if h.stopped.IsZero() || !h.resume {
		return nil
	}
	if err := source.cont(ctx); err != nil {
		return vmstate.Errorf(vmstate.QEMU, "cannot let the guest go on in the source: %w", err)
	}
	h.notePause(time.Now())
	return nil
}

// fence makes sure that the target never runs again: it is killed, and its death is seen on its pidfd.
func (h *Handoff) fence(ctx context.Context) error {
	h.way.close()
	if h.target == nil {
		return nil
	}
	return h.target.kill(ctx)
}

// stopSource stops the guest. From here on the pause is counted.
func (h *Handoff) stopSource(ctx context.Context) error {
	if !h.resume {
		return nil // it stands already, and stays so
	}
	h.stopped = time.Now()
	return h.cfg.Source.Monitor.Stop(ctx)
}
