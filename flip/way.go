package flip

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"qlive/internal/qmp"
	"qlive/vmstate"
)

// A way is how the guest is switched over once the target is prepared. All of them start from a target that waits for a
// stream on the same RAM, and end with a target that has loaded everything and stands still.
type way interface {
	// prepare does what can be done while the guest runs. The fence undoes the target's part, release the source's, and close
	// what qlive holds.
	prepare(context.Context) error
	// first is what switchOver tells the source first, so that it can be sent ahead; nil for nothing, or what is not known before.
	first() []qmp.Command
	// switchOver stops the guest, if it runs, and brings its state into the target. It sets h.stopped.
	switchOver(context.Context) error
	// settle brings the source to where it obeys `cont`, after the target is dead.
	settle(context.Context) error
	// release takes back what prepare gave the source. It comes after the source has its run state back.
	release(context.Context) error
	// close lets go of what qlive holds of the channel. It may be called at any time and more than once.
	close()
}

// ears hear what the two QEMUs say from before the last look at the guest on, so that nothing is missed.
type ears struct{ source, target *qmp.Subscription }

func (h *Handoff) listen() {
	h.ears = ears{h.cfg.Source.Monitor.Subscribe(), h.target.Monitor.Subscribe(qmp.EventMigration)}
}

// close notes what nobody has waited for, and hears nothing more. It may be called at any time and more than once.
func (e ears) close(note func(qmp.Event)) {
	if e.source == nil {
		return
	}
	rest(e.source, note)
	e.source.Close()
	e.target.Close()
}

// channelName is what the QEMUs know their end of the channel by.
const channelName = "qlive-channel"

// ChooseWay is the way that is taken if none is asked for. Device state only has the shortest pause, which does not grow with
// RAM, and is the only one in which the source enters no migration, so that undoing it is a plain `cont` and leaves a paused
// guest paused. See docs/decisions.md for the evidence.
func ChooseWay(asked vmstate.Way) vmstate.Way {
	if asked == "" || asked == vmstate.WayAuto {
		return vmstate.WayDeviceState
	}
	return asked
}

// wayOf is the way of a mode. In cpr and postcopy qlive stops the guest first, although QEMU would do it itself: a source that is stopped already does
// not start again by itself when its migration fails. In postcopy a source since QEMU 10.2 would do so if the target fails as it loads the devices (state
// postcopy-device), though with release-ram it may have freed pages by then. In precopy only QEMU knows when it has copied enough; that its source starts
// again by itself does no harm, since nothing of what it has is also the target's.
func wayOf(m vmstate.Mode, asked vmstate.Way) vmstate.Way {
	switch m {
	case vmstate.ModeShared:
		return asked
	case vmstate.ModePrecopy:
		return vmstate.WayLive
	}
	return vmstate.WayStopFirst
}

// CheckWay refuses a way that is asked for in a mode that has its own. The error is of kind Invalid.
func CheckWay(vm string, m vmstate.Mode, asked vmstate.Way) error {
	if m == vmstate.ModeShared || asked == "" || asked == vmstate.WayAuto {
		return nil
	}
	return vmstate.Errorf(vmstate.Invalid, "cannot hand %s over in mode %s by way %s: that mode has its own way", vm, m, asked).
		With("leave the way out, or ask for mode shared")
}

// switchOver stops the guest and moves its state; undone, the guest goes on in the source.
func (h *Handoff) switchOver(ctx context.Context) error {
	if err := errors.Join(h.may(vmstate.ActStopSource), h.may(vmstate.ActLoadTarget)); err != nil {
		return err
	}
	return h.step(ctx, step{name: "switch", do: h.way.switchOver, undo: h.giveBack})
}

// giveBack lets the guest go on in the source as it was. The fence comes first: not before the target is dead.
//
// Behind the fence only the source can run the guest, so there is nothing left to decide: qlive waits for its answer, or for its
// end, however slow it is.
func (h *Handoff) giveBack(ctx context.Context) error {
	if err := h.fence(ctx); err != nil {
		return err
	}
	h.primed.source.Drop(ctx) // the step that sends it ahead is undone after this one
	if h.torn {
		return nil // there is nothing to give back any more, and it is known why
	}
	if h.away() {
		return h.errAway()
	}
	source := h.cfg.Source
	if source.ended() {
		return nil // the guest has gone of itself; the daemon reports how
	}
	ctx, cancel := context.WithTimeout(ctx, giveBackLimit)
	defer cancel()
	if err := h.way.settle(ctx); err != nil && !source.EndedSoon() {
		return err
	}
	state, err := source.Monitor.QueryStatus(ctx)
	if err == nil {
		h.noteGuest(state.Status)
	}
	switch {
	case !h.resume:
		return nil
	case h.over != "":
		h.logf("the guest has ended meanwhile (%s), and does not go on", h.over)
		return nil
	case err == nil && !goesOn(state.Status):
		h.logf("the guest has become %s meanwhile, and stays so", state.Status)
		return nil
	}
	err = source.unlessItEnds(ctx, "when it was to run again", source.Monitor.Cont) // harmless if it was never stopped
	switch {
	case err == nil:
		h.noteGuest(qmp.RunRunning)
		h.notePause(time.Now())
		return nil
	case source.ended():
		return nil
	}
	return vmstate.Errorf(vmstate.QEMU, "cannot let the guest go on in the source: %w", err)
}

// note keeps when QEMU has stopped the guest, and that the guest has ended as it was stopped. Then it does not go on in the source either, whatever
// QEMU calls its state: it calls a guest paused that powers off behind a stop, and postmigrate one that was migrated in spite of it.
func (h *Handoff) note(e qmp.Event) {
	switch e.Name {
	case qmp.EventStop:
		h.qemuStop = e.QEMUTime
	case qmp.EventShutdown, qmp.EventSuspend:
		h.over = e.Name
	case qmp.EventGuestPanicked:
		if action(e) != "run" {
			h.over = e.Name
		}
	case qmp.EventBlockIOError:
		if action(e) == "stop" {
			h.over = e.Name
		}
	}
}

// action is what QEMU does about what has happened; empty if it does not say so.
func action(e qmp.Event) string {
	var data struct {
		Action string `json:"action"`
	}
	if json.Unmarshal(e.Data, &data) != nil {
		return ""
	}
	return data.Action
}

// stoodStill makes sure that the guest ran until it was stopped, and that nothing has happened to it since. QEMU says STOP when it stops a guest
// that runs: if it did not, the guest had ended before.
func (h *Handoff) stoodStill() error {
	if h.over != "" {
		return disturbed(h.over)
	}
	if h.resume && h.qemuStop.IsZero() {
		return vmstate.Errorf(vmstate.Conflict, "cannot hand over: the guest had ended as it was to be stopped").With("look at the guest, and ask again")
	}
	return nil
}

func disturbed(what string) error {
	return vmstate.Errorf(vmstate.Conflict, "cannot hand over: %s came as the guest was stopped", what).With("look at the guest, and ask again")
}

// rest gives what has come of events that nobody has waited for.
func rest(events *qmp.Subscription, note func(qmp.Event)) {
	nothingMore, cancel := context.WithCancel(context.Background())
	cancel()
	for {
		e, err := events.Next(nothingMore)
		if err != nil {
			return
		}
		note(e)
	}
}

// goesOn tells whether a guest that ran before the handoff shall run after it was undone. Where it does not, something has happened to
// the guest itself as it was stopped: nobody has asked for it to be ignored.
func goesOn(state qmp.RunState) bool {
	switch state {
	case qmp.RunGuestPanicked, qmp.RunShutdown, qmp.RunSuspended, qmp.RunIOError, qmp.RunInternalError, qmp.RunWatchdog:
		return false
	}
	return true
}

// giveBackLimit bounds how long the source may take to obey. A `stop` that waits for a slow disk must end first.
const giveBackLimit = 5 * time.Minute

// fence makes sure that the target never runs again: it is killed, and its death is seen on its pidfd.
func (h *Handoff) fence(ctx context.Context) error {
	h.way.close()
	if h.target == nil {
		return nil
	}
	return h.target.kill(ctx)
}
