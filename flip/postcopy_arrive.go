package flip

import (
	"context"
	"time"

	"qlive/flip/pageback"
	"qlive/internal/qmp"
)

// How the target is waited for.
const (
	// askEvery is how often the source is asked whether the target waits for a page. QEMU holds back such pages, too, once it has used up what it may send
	// (qemu_savevm_state_iterate in migration/savevm.c), and has the processor spin meanwhile.
	askEvery = 300 * time.Microsecond
	// slowAfter is after how long a target may be in trouble: a healthy one has said RESUME by then. QEMU sends the first pages that nobody has
	// asked for 100 ms after the migration has begun.
	slowAfter = 15 * time.Millisecond
	// askSlowly is askEvery from then on.
	askSlowly = 5 * time.Millisecond
)

// arrival is what is known of a target that is about to have the guest.
type arrival struct {
	began    time.Time
	asked    int64 // requests for pages that have been answered
	sent     int64 // pages, as it was when the source was last let loose
	loose    int64 // requests that were there then
	sparedAt time.Time
}

// arrive waits until the target has the guest.
func (w *postcopyWay) arrive(ctx context.Context) error {
	a := arrival{began: time.Now()}
	for {
		every := askEvery
		if time.Since(a.began) > slowAfter {
			every = askSlowly
		}
		wait, cancel := context.WithTimeout(ctx, every)
		e, err := w.events.Next(wait)
		quiet := err != nil && wait.Err() != nil && ctx.Err() == nil
		cancel()
		switch {
		case quiet:
			err = w.help(ctx, &a)
		case err == nil && e.Name == qmp.EventResume:
			w.resumed(ctx, e)
			return nil
		case err == nil && !w.h.resume && e.MigrationStatus() == qmp.MigrationPostcopyActive:
			return w.stands(ctx)
		case err == nil:
			_, err = ended(e, "target")
		}
		if err != nil {
			return err
		}
	}
}

// help lets the source send what the target waits for, and copies what it will send next if that takes long.
func (w *postcopyWay) help(ctx context.Context, a *arrival) error {
	monitor := w.h.cfg.Source.Monitor
	m, err := monitor.QueryMigrate(ctx)
	if err != nil || m.Status != qmp.MigrationPostcopyActive && m.Status != qmp.MigrationPostcopyDevice {
		return err
	}
	// The first request is qlive's own ([postcopyWay.wake]), so that it is known what follows it.
	switch now := time.Now(); {
	case a.loose == 0 && !before(10, 2, w.h.target.Version): // older ones end at once if they cannot load a device
		w.keepFirst()
	case now.Sub(a.began) > slowAfter && now.Sub(a.sparedAt) > slowAfter:
		w.keepSpares(ctx, m.RAM)
		a.sparedAt = time.Now()
	}
	if m.RAM.Normal+m.RAM.Duplicate > a.sent {
		a.asked = a.loose
	}
	if m.RAM.Requests <= a.asked {
		return nil
	}
	a.sent, a.loose = m.RAM.Normal+m.RAM.Duplicate, m.RAM.Requests
	return w.letLooseOnce(ctx)
}

// letLooseOnce lets the source send for a moment: what it has been asked for first.
func (w *postcopyWay) letLooseOnce(ctx context.Context) error {
	free := qmp.SetParametersCommand(qmp.MigrateParameters{MaxPostcopyBandwidth: new(int64)})
	held := qmp.SetParametersCommand(qmp.MigrateParameters{MaxPostcopyBandwidth: new(int64(heldBandwidth))})
	calls, err := w.h.cfg.Source.Monitor.StartAll(ctx, free, held)
	for _, call := range calls {
		if err == nil {
			err = call.Wait(ctx, nil)
		}
	}
	return err
}

// keepFirst copies the pages that the source sends first, as quickly as can be.
func (w *postcopyWay) keepFirst() {
	if !w.standsInSource() {
		return
	}
	if err := w.spares.KeepFirst(w.h.cfg.Source.Process.PID(), w.blocks); err != nil {
		w.h.logf("cannot copy the pages that the source sends first: %v", err)
	}
}

// standsInSource tells whether the source lives and has said that its guest stands.
func (w *postcopyWay) standsInSource() bool {
	rest(w.h.ears.source, w.note)
	return !(w.h.resume && w.h.qemuStop.IsZero()) && !w.h.cfg.Source.ended()
}

// keepSpares copies the pages that the source sends next, in case the target reads them and dies. The guest stands; sent is what was sent before.
func (w *postcopyWay) keepSpares(ctx context.Context, sent qmp.MigrationRAM) {
	source := w.h.cfg.Source
	if !w.standsInSource() {
		return
	}
	quiet := pageback.Quiet(w.blocks, sent.Normal)
	if err := w.spares.Keep(source.Process.PID(), w.blocks); err != nil {
		w.h.logf("cannot copy the pages that the source sends next: %v", err)
		return
	}
	if m, err := source.Monitor.QueryMigrate(ctx); quiet && err == nil && m.RAM.Normal == sent.Normal && m.RAM.Duplicate == sent.Duplicate {
		w.spares.Confirm()
	}
}
