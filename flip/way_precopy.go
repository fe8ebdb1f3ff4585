package flip

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"qlive/internal/qmp"
	"qlive/vmstate"
)

// precopyWay is QEMU's plain migration, live, with qlive in the middle of its channel ([relay]). The source sends all of RAM while the guest runs, and then again and
// again what the guest has changed meanwhile, until what is left can be sent within the pause that it is allowed. Then it stops the guest by itself, sends the rest
// and the devices, and waits for the target's word, which qlive holds back until the switch is in the journal.
//
// How much is left is QEMU's to know, and so is when it stops the guest: a guest that does next to nothing is copied at one go.
//
// From a source that does not notice all that its guest changes the guest is copied while it stands ([losesChanges]): without live, qlive stops it first.
type precopyWay struct {
	migrateWay
	was    settings // of the source
	relay  *relay
	all    bool  // QEMU has said that it sends all of guest RAM
	allows int64 // ms: the pause that the copy aims at
	began  time.Time
}

const (
	// firstPauseMS is the pause that QEMU's copy aims at first. It is what the devices alone take, so that less would not be felt.
	firstPauseMS = 5
	// patience is how often the guest's changes are sent before a longer pause is allowed.
	patience = 8
	// copyTick is how often it is looked at how far the copy is.
	copyTick = 100 * time.Millisecond
	// lookLimit is how long the source may take to say how far it is, beside the pause that it may make: it does not answer while it sends the rest.
	lookLimit = 10 * time.Second
)

// allowed is the pause, in ms, that the copy may aim at once QEMU has gone through the guest's memory so many times: longer and longer for a
// guest that changes it faster than it can be sent, and half of the longest pause at most. The other half is for the devices, and for a host that is busy.
func allowed(passes int64, maxPauseMS int) int64 {
	most := max(1, int64(maxPauseMS)/2)
	return min(most, firstPauseMS<<min(max(0, passes-patience), 20))
}

func (w *precopyWay) prepare(ctx context.Context) (err error) {
	if err := w.standsSinceItCame(); err != nil {
		return err
	}
	w.allows = allowed(0, w.h.cfg.Spec.MaxPauseMS)
	want := map[string]bool{qmp.CapEvents: true, qmp.CapReturnPath: true, qmp.CapPostcopyRAM: false, qmp.CapReleaseRAM: false}
	if err := w.was.change(ctx, w.h, want, qmp.MigrateParameters{MaxBandwidth: new(int64), DowntimeLimit: &w.allows}); err != nil {
		return err
	}
	w.relay, err = newRelay(ctx, w.h.cfg.Source, w.h.target)
	return err
}

// copy copies RAM until the source has stopped its guest for the switch. The gate is open meanwhile, so that the guest can be paused, resumed and reset,
// and held afterwards, whatever has come of it.
func (w *precopyWay) copy(ctx context.Context) error {
	h := w.h
	ctx, cancel := w.relay.within(ctx)
	defer cancel()
	defer w.settleGuest()
	defer h.closeGate()
	h.noteObeyed("")
	if err := w.begin(ctx); err != nil {
		return err
	}
	h.openGate()
	err := w.untilStopped(ctx)
	if cause := context.Cause(ctx); err != nil && vmstate.KindOf(cause) == vmstate.Timeout {
		return w.tooSlow(cause)
	}
	if err == nil && !w.all { // so little was there to copy that nobody has looked
		_, err = w.look(ctx)
	}
	return cmp.Or(err, w.sentAll())
}

func (w *precopyWay) begin(ctx context.Context) error {
	w.began = time.Now()
	w.relay.send()
	return w.h.cfg.Source.Monitor.Migrate(ctx, "fd:"+channelName)
}

// untilStopped follows the copy. When it returns nil the gate is held and the guest stands, for good as far as the source is concerned.
func (w *precopyWay) untilStopped(ctx context.Context) error {
	var looked time.Time
	for {
		wait, cancel := context.WithDeadline(ctx, looked.Add(copyTick))
		e, err := w.h.ears.source.Next(wait)
		cancel()
		if err != nil && (ctx.Err() != nil || wait.Err() == nil) {
			return err
		}
		if err == nil {
			if done, err := w.hear(ctx, e); done || err != nil {
				return err
			}
		}
		if time.Since(looked) < copyTick && e.MigrationStatus() != qmp.MigrationActive {
			continue
		}
		looked = time.Now()
		done, err := w.look(ctx)
		if err == nil && w.all {
			err = w.h.failpoint(ctx, "copying", "after")
		}
		if done || err != nil {
			return err
		}
	}
}

// hear makes of an event what it means for the copy, and tells whether the source has stopped the guest.
func (w *precopyWay) hear(ctx context.Context, e qmp.Event) (stopped bool, err error) {
	h := w.h
	w.note(e)
	if h.over != "" {
		return false, disturbed(h.over)
	}
	if _, err := ended(e, "source"); err != nil {
		return false, w.reason(ctx, err)
	}
	switch e.Name {
	case qmp.EventResume:
		h.resume = true
	case qmp.EventStop:
		return w.stoppedForGood(), nil
	}
	return false, nil
}

// stoppedForGood tells, after a STOP, whether the source has stopped its guest for the switch, or somebody has paused it. Whoever tells the guest something
// at this moment is through once the gate is held, and all that has come of it is among the events.
func (w *precopyWay) stoppedForGood() bool {
	h := w.h
	h.closeGate()
	runs := false
	rest(h.ears.source, func(e qmp.Event) {
		w.note(e)
		runs = e.Name == qmp.EventResume || runs && e.Name != qmp.EventStop
	})
	if !runs && h.lastObeyed() != "stop" {
		return true
	}
	h.resume, w.reset = runs, false
	h.qemuStop, h.stopped = time.Time{}, time.Time{}
	h.openGate()
	return false
}

// look asks how far the copy is, shows it, and allows a longer pause if it does not come to an end. Of a guest that stands the source says nothing when it
// has come so far: it has to be asked.
func (w *precopyWay) look(ctx context.Context) (stopped bool, err error) {
	h := w.h
	limit := lookLimit + time.Duration(h.cfg.Spec.MaxPauseMS)*time.Millisecond
	ctx, cancel := context.WithTimeoutCause(ctx, limit, vmstate.Errorf(vmstate.Timeout, "cannot see how far the copy is: the source has not answered for %s", limit))
	defer cancel()
	m, err := h.cfg.Source.Monitor.QueryMigrate(ctx)
	if err != nil {
		return false, err
	}
	if m.Status.Ended() && m.Status != qmp.MigrationCompleted {
		return false, w.reason(ctx, fmt.Errorf("cannot copy the guest: the source's migration has %s", m.Status))
	}
	if err := w.show(m); err != nil {
		return false, err
	}
	if to := allowed(m.RAM.Passes, h.cfg.Spec.MaxPauseMS); to > w.allows {
		h.logf("the guest changes its memory as fast as it is copied: after %d rounds a pause of %d ms is allowed", m.RAM.Passes, to)
		if err := h.cfg.Source.Monitor.MigrateSetParameters(ctx, qmp.MigrateParameters{DowntimeLimit: &to}); err != nil {
			return false, err
		}
		w.allows = to
	}
	if h.resume {
		return false, nil
	}
	state, err := h.cfg.Source.Monitor.QueryStatus(ctx)
	if err != nil || state.Status != qmp.RunFinishMigrate && state.Status != qmp.RunPostMigrate {
		return false, err
	}
	h.closeGate()
	return true, nil
}

// show notes how far the copy is: what the files of the new memory hold, and what QEMU has still to send. It does not say of which region that is: each has its share.
func (w *precopyWay) show(m qmp.Migration) error {
	h := w.h
	if m.RAM.Total == 0 {
		return nil // not set up yet
	}
	var held uint64
	for _, r := range h.cfg.Memory.Regions() {
		if n, err := r.AllocatedBytes(); err == nil {
			held += n
		}
		arrived := float64(r.SizeBytes()) * (1 - float64(m.RAM.Remaining)/float64(m.RAM.Total))
		h.observe(r.Name(), vmstate.Mapped, 0, 0, uint64(max(0, arrived)), 0)
	}
	if size := h.cfg.Memory.SizeBytes(); uint64(m.RAM.Total) < size {
		return vmstate.Errorf(vmstate.Internal, "cannot copy the guest: QEMU would send %d bytes, and its RAM has %d", m.RAM.Total, size)
	}
	w.all = true
	h.noteTwice(held)
	h.change(func(v *vmstate.Migration) {
		v.Copy = &vmstate.Copy{
			Rounds: m.RAM.Passes, RemainingBytes: uint64(max(0, m.RAM.Remaining)), SentBytes: uint64(max(0, m.RAM.Transferred)),
			BytesPerS: uint64(max(0, m.RAM.Mbps) * 1e6 / 8), ChangedBytesPerS: uint64(max(0, m.RAM.DirtyPagesRate)) * targetPage, AllowedMS: w.allows,
		}
	})
	return nil
}

// settleGuest notes what the guest does now, the gate being held: it runs, or did until the source stopped it, or somebody has paused it.
func (w *precopyWay) settleGuest() {
	h := w.h
	if told := h.lastObeyed(); told != "" {
		h.resume = told == "cont"
	}
	switch running := h.runState == string(qmp.RunRunning); {
	case h.resume && !running:
		h.runState = string(qmp.RunRunning)
	case !h.resume && running:
		h.runState = string(qmp.RunPaused)
	}
}

// tooSlow says why the time was not enough.
func (w *precopyWay) tooSlow(cause error) error {
	c := w.h.Migration().Copy
	if c == nil {
		return cause
	}
	e := vmstate.Errorf(vmstate.Timeout, "%s: after %d rounds %d MiB of its memory are left to be copied; %d MiB are sent in a second, the guest changes %d MiB in a second, and may stand for %d ms",
		cause.Error(), c.Rounds, c.RemainingBytes>>20, c.BytesPerS>>20, c.ChangedBytesPerS>>20, w.allows)
	return e.With("allow a longer pause (max_pause_ms), or more time (timeout_s), or pause the guest while it is copied")
}

func (w *precopyWay) switchOver(ctx context.Context) error {
	load := step{name: "load", do: w.load}
	if w.live {
		return w.h.run(ctx, load)
	}
	return w.h.run(ctx, step{name: "stop", do: w.stop}, step{name: "migrate", do: w.begin}, load)
}

// load lets the target's word through, and waits until both sides have said that the guest has come.
func (w *precopyWay) load(ctx context.Context) error {
	ctx, cancel := w.relay.within(ctx)
	defer cancel()
	w.relay.answer()
	if w.live { // the rest is a matter of milliseconds
		err := w.await(ctx)
		if err == nil {
			w.relay.hangUp()
		}
		return err
	}
	shown := w.keepShowing(ctx)
	err := w.await(ctx)
	shown()
	if err != nil {
		return err
	}
	m, err := w.h.cfg.Source.Monitor.QueryMigrate(ctx)
	if err == nil {
		err = cmp.Or(w.show(m), w.sentAll())
	}
	w.relay.hangUp()
	return err
}

// sentAll is an error unless the source has said that it sends all of the guest's memory.
func (w *precopyWay) sentAll() error {
	if w.all {
		return nil
	}
	return vmstate.Errorf(vmstate.Internal, "cannot be sure that the source has sent all of the guest's memory: it has not said so")
}

// keepShowing shows how far the copy of a guest is that stands. What it returns ends that.
func (w *precopyWay) keepShowing(ctx context.Context) (end func()) {
	ctx, cancel := context.WithCancel(ctx)
	var shows sync.WaitGroup
	shows.Go(func() {
		tick := time.NewTicker(copyTick)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
			m, err := w.h.cfg.Source.Monitor.QueryMigrate(ctx)
			if err == nil {
				err = w.show(m)
			}
			if err != nil {
				return // the handoff hears of it by itself
			}
		}
	})
	return func() { cancel(); shows.Wait() }
}

// settle ends the source's migration, now that the target is dead: it hangs up on it.
func (w *precopyWay) settle(ctx context.Context) error {
	if w.relay != nil {
		w.relay.hangUp()
	}
	return settleMigration(ctx, w.h.cfg.Source.Monitor)
}

// release gives the source back what its own migrations were set to.
func (w *precopyWay) release(ctx context.Context) error {
	if w.relay != nil {
		w.relay.hangUp()
	}
	monitor := w.h.cfg.Source.Monitor
	return errors.Join(settleMigration(ctx, monitor), takeBackMigration(ctx, monitor), w.was.giveBack(ctx, monitor))
}

// takeBackCopy is release for a source whose own settings nobody remembers: it gets QEMU's.
func takeBackCopy(ctx context.Context, monitor *qmp.Client) error {
	return errors.Join(settleMigration(ctx, monitor), takeBackMigration(ctx, monitor),
		monitor.MigrateSetParameters(ctx, qmp.MigrateParameters{MaxBandwidth: new(int64(defaultBandwidth)), DowntimeLimit: new(int64(defaultDowntime))}))
}

// defaultDowntime is QEMU's own downtime-limit, ms (migration/options.c).
const defaultDowntime = 300

// close lets go of the target. The source is hung up on only when that is dead: it lets its guest go on by itself then.
func (w *precopyWay) close() {
	if w.relay != nil {
		w.relay.hangUpTarget()
		if w.h.target.ended() {
			w.relay.hangUp()
		}
	}
	w.migrateWay.close()
}

// finish notes the copy as it ended, and says what it was.
func (w *precopyWay) finish(ctx context.Context) {
	h := w.h
	took := time.Since(w.began).Round(time.Millisecond)
	m, err := h.cfg.Source.Monitor.QueryMigrate(ctx)
	if err == nil {
		err = w.show(m)
	}
	if err != nil { // it has ended by now, for all that matters
		h.logf("the guest was copied in %s", took)
		return
	}
	h.logf("the guest was copied in %s and %d rounds: %d MiB were sent", took, m.RAM.Passes, m.RAM.Transferred>>20)
}
