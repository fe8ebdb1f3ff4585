package flip

import (
	"context"
	"fmt"
	"os"
	"time"

	"qlive/internal/qemu"
	"qlive/internal/qmp"
	"qlive/vmstate"
)

// migrateWay lets QEMU's own migration move the state over a socket pair: what is shared is ignored (x-ignore-shared), all
// else goes through the channel while the guest stands.
//
// With live set QEMU stops the guest itself, once everything but the device state has gone over: a shorter pause, but a source
// that starts again by itself when the migration fails, whether or not the target is dead.
type migrateWay struct {
	h     *Handoff
	live  bool
	reset bool      // the guest has reset itself since it was stopped
	asked *qmp.Call // the question after which the source has said all; nil if none is needed
}

// prepare makes the channel. Both ends are closed here before the first byte: while anyone else holds one, killing the
// target does not free the source.
func (w *migrateWay) prepare(ctx context.Context) error {
	if err := w.standsSinceItCame(); err != nil {
		return err
	}
	if err := w.h.setCapabilities(ctx, w.h.cfg.Source); err != nil {
		return err
	}
	a, b, err := socketPair()
	if err != nil {
		return err
	}
	return w.connect(ctx, a, b)
}

// standsSinceItCame refuses a guest that an old QEMU was handed and may never have run.
func (w *migrateWay) standsSinceItCame() error {
	if !w.h.resume && w.h.cfg.Arrived && before(10, 0, w.h.cfg.Source.Version) {
		return vmstate.Errorf(vmstate.Unsupported, "cannot hand a guest that stands on from QEMU %s by %s: if it has not run since it arrived, that QEMU aborts",
			w.h.cfg.Source.Version, w.h.cfg.Way).With("use the way device_state, or resume the guest first")
	}
	return nil
}

// connect gives each side its end of the channel, and keeps none.
func (w *migrateWay) connect(ctx context.Context, a, b *os.File) error {
	defer a.Close()
	defer b.Close()
	if err := w.h.cfg.Source.Monitor.Getfd(ctx, channelName, int(a.Fd())); err != nil {
		return fmt.Errorf("cannot give the source the channel: %w", err)
	}
	if err := w.h.target.Monitor.Getfd(ctx, channelName, int(b.Fd())); err != nil {
		return fmt.Errorf("cannot give the target the channel: %w", err)
	}
	return w.h.target.Monitor.MigrateIncoming(ctx, "fd:"+channelName, nil)
}

func (w *migrateWay) switchOver(ctx context.Context) error {
	h := w.h
	steps := []step{
		{name: "stop", do: w.stop},
		{name: "migrate", do: func(ctx context.Context) error { return h.cfg.Source.Monitor.Migrate(ctx, "fd:"+channelName) }},
		{name: "load", do: w.await},
	}
	if w.live {
		steps[0] = step{name: "look", do: w.stillRuns}
	}
	return h.run(ctx, steps...)
}

// stillRuns makes sure that the guest has not ended before QEMU is to stop it: migrate would hide that.
func (w *migrateWay) stillRuns(ctx context.Context) error {
	state, err := w.h.cfg.Source.Monitor.QueryStatus(ctx)
	if err == nil && !goesOn(state.Status) {
		return vmstate.Errorf(vmstate.Conflict, "cannot hand over: the guest has become %s as it was to be stopped", state.Status).
			With("look at the guest, and ask again")
	}
	return err
}

func (w *migrateWay) first() []qmp.Command {
	if w.live || !w.h.resume {
		return nil
	}
	return []qmp.Command{qmp.StopCommand()}
}

// stop stops the guest, unless it stands already. It asks nothing more: QEMU would read the question while it halts the vCPUs. What has
// happened to the guest stands in the events, which QEMU writes before the answer.
func (w *migrateWay) stop(ctx context.Context) error {
	if !w.h.resume {
		return nil
	}
	w.h.stopped = time.Now()
	calls, err := w.h.primed.source.Start(ctx)
	if err != nil {
		return err
	}
	w.h.stopped = calls[0].Sent()
	if err := calls[0].Wait(ctx, nil); err != nil {
		return err
	}
	rest(w.h.ears.source, w.note)
	return w.h.stoodStill()
}

// await waits until both sides report that the migration is complete.
func (w *migrateWay) await(ctx context.Context) error {
	h := w.h
	err := h.target.unlessItEnds(ctx, "while it loaded the guest", func(ctx context.Context) error {
		if err := w.sourceDone(ctx); err != nil {
			return err
		}
		return migrated(ctx, h.ears.target, "target")
	})
	if err == nil {
		return w.undisturbed(ctx)
	}
	rest(h.ears.source, w.note)
	if h.over != "" { // the source ends, and the channel with it: that is why the target could not load all
		return disturbed(h.over)
	}
	return err
}

// undisturbed makes sure that nothing has happened to the guest as it was stopped. Between two commands QEMU does what the guest has asked for
// last, so that after the answer to a question it has said so. With stop first there was one: migrate itself.
func (w *migrateWay) undisturbed(ctx context.Context) error {
	if w.asked != nil {
		if err := w.asked.Wait(ctx, nil); err != nil {
			return err
		}
	}
	rest(w.h.ears.source, w.note)
	if w.live && w.reset {
		return disturbed(qmp.EventReset)
	}
	return w.h.stoodStill()
}

func (w *migrateWay) sourceDone(ctx context.Context) error {
	for {
		e, err := w.h.ears.source.Next(ctx)
		if err != nil {
			return err
		}
		w.note(e)
		if e.Name != qmp.EventMigration {
			continue
		}
		done, err := ended(e, "source")
		if err != nil {
			return w.reason(ctx, err)
		}
		if done && w.live { // answered while the target loads
			w.asked, err = w.h.cfg.Source.Monitor.Start(ctx, "query-status", nil)
		}
		if done || err != nil {
			return err
		}
	}
}

// note is the handoff's, with what matters where QEMU itself stops the guest.
func (w *migrateWay) note(e qmp.Event) {
	w.h.note(e)
	if e.Name == qmp.EventReset && !w.h.qemuStop.IsZero() {
		w.reset = true
	}
	if e.Name == qmp.EventStop && w.live && w.h.resume {
		// Not when it was read here: a reader that is scheduled late would make the pause look shorter than it was.
		w.h.stopped = e.Received.Add(-e.Received.Sub(e.QEMUTime))
	}
}

// reason adds to a failed migration why the source says it failed.
func (w *migrateWay) reason(ctx context.Context, err error) error {
	words := w.h.target.Process.Tail(qemu.Words)
	if m, qerr := w.h.cfg.Source.Monitor.QueryMigrate(ctx); qerr == nil && m.ErrorDesc != "" {
		words = append(words, m.ErrorDesc)
	}
	return &vmstate.Error{Kind: vmstate.Incompatible, Detail: err.Error(), Words: words,
		Remedy: "see what the QEMUs say; the guest goes on in the source"}
}

// settle waits until the source's migration has ended, as it does when its peer is dead, and cancels it if it does not.
func (w *migrateWay) settle(ctx context.Context) error {
	return settleMigration(ctx, w.h.cfg.Source.Monitor)
}

func settleMigration(ctx context.Context, monitor *qmp.Client) error {
	deadline := time.Now().Add(5 * time.Second)
	for asked := false; ; {
		m, err := monitor.QueryMigrate(ctx)
		if err != nil {
			return fmt.Errorf("cannot see how the source's migration ended: %w", err)
		}
		if m.Status == qmp.MigrationNone || m.Status.Ended() {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("cannot end the source's migration: it is still %s", m.Status)
		}
		if !asked && time.Until(deadline) < 4*time.Second {
			asked = true
			if err := monitor.MigrateCancel(ctx); err != nil {
				return fmt.Errorf("cannot cancel the source's migration: %w", err)
			}
		}
		select { // the safety net: its end comes without an event if the capability was never set
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// release takes back the channel's name, if the source has not used it, and what a migration of somebody else's would not expect.
func (w *migrateWay) release(ctx context.Context) error {
	return takeBackMigration(ctx, w.h.cfg.Source.Monitor)
}

func takeBackMigration(ctx context.Context, monitor *qmp.Client) error {
	_ = monitor.Closefd(ctx, channelName) // refused if it has been used
	return takeBackCapability(ctx, monitor)
}

// takeBackCapability takes back what a migration of somebody else's would not expect.
func takeBackCapability(ctx context.Context, monitor *qmp.Client) error {
	return monitor.MigrateSetCapabilities(ctx, map[string]bool{qmp.CapIgnoreShared: false, qmp.CapPostcopyRAM: false, qmp.CapReleaseRAM: false})
}

func (w *migrateWay) close() {
	w.h.ears.close(w.note) // a pause that was cut short has begun all the same
}

// migrated waits until a side reports that its migration has completed.
func migrated(ctx context.Context, events *qmp.Subscription, who string) error {
	for {
		e, err := events.Until(ctx, qmp.Named(qmp.EventMigration))
		if err != nil {
			return err
		}
		if done, err := ended(e, who); done || err != nil {
			return err
		}
	}
}

// ended tells whether a MIGRATION event is the last. States that this version of qlive has not heard of are in progress.
func ended(e qmp.Event, who string) (bool, error) {
	status := e.MigrationStatus()
	if status.Ended() && status != qmp.MigrationCompleted {
		return true, fmt.Errorf("cannot move the guest: the %s's migration has %s", who, status)
	}
	return status.Ended(), nil
}
