package flip

import (
	"context"
	"errors"
	"strings"
	"time"

	"qlive/flip/memory"
	"qlive/flip/pageback"
	"qlive/internal/qmp"
	"qlive/vmstate"
)

// sourceBlock is a RAM block of the source, and the memory that the target has for it, if that is qlive's.
func sourceBlock(b qmp.RAMBlock, r *memory.Region) pageback.Block {
	block := pageback.Block{Name: b.Name, At: b.HVA, Bytes: b.Used}
	if r != nil {
		block.File = r.File()
	}
	return block
}

// tooLong is what a switch ends with that has taken too long.
func (h *Handoff) tooLong() error {
	return vmstate.Errorf(vmstate.Timeout, "cannot switch %s over within max_pause_ms, %d ms", h.cfg.Migration.VM, h.cfg.Spec.MaxPauseMS).
		With("see the trace for what took so long; allow more with max_pause_ms")
}

// undecided decides a switch that has failed, or taken too long: nil if the target runs the guest after all; a refusal if it has never run it, and it is
// dead; else the guest is lost.
func (w *postcopyWay) undecided(ctx, pause context.Context, err error) error {
	h := w.h
	kind := vmstate.QEMU
	if at, ok := pause.Deadline(); ok && time.Until(at) < time.Millisecond { // a command may notice a moment before
		<-pause.Done()
	}
	if late := context.Cause(pause); late != nil {
		kind, err = vmstate.KindOf(late), late
	}
	if ran, err := w.runsAfterAll(ctx, err); ran {
		return err
	}
	how := err.Error()
	if h.target.EndedSoon() {
		how = h.target.died("as it loaded the guest").Error()
	}
	if kill := h.target.kill(ctx); kill != nil {
		return errors.Join(err, kill)
	}
	if _, ran := w.saidResume(ctx); ran {
		return h.tornApart("the target died as soon as it ran it", err)
	}
	sent, gone := w.hasSent(ctx)
	switch {
	case h.cfg.Source.ended():
		return h.tornApart("the source died as it let go of it", err)
	case gone != nil:
		return h.tornApart("the target ended as it took it: "+how, errors.Join(err, gone))
	}
	h.sent = sent
	return &vmstate.Error{Kind: kind, Step: "run-target", Detail: "cannot switch the guest over: " + how, Words: h.target.Process.Tail(5),
		Remedy: "see what QEMU says; the guest goes on in the source", Err: &refusal{err}}
}

// finalWord bounds how long a target that is late may take to say whether it has run after all.
const finalWord = 250 * time.Millisecond

// runsAfterAll tells a target that is late to stop. If it answers, it has either said RESUME before, and goes on, or it never runs.
func (w *postcopyWay) runsAfterAll(ctx context.Context, why error) (ran bool, err error) {
	h := w.h
	if !h.resume {
		return false, nil
	}
	ask, cancel := context.WithTimeout(ctx, finalWord)
	defer cancel()
	_ = h.target.Monitor.Stop(ask) // what it has said before counts
	now, cancel := context.WithCancel(ctx)
	cancel()
	e, ran := w.saidResume(now)
	if !ran {
		return false, nil
	}
	w.resumed(ctx, e)
	h.warn("the target runs the guest, but: %v", why)
	if err := h.target.Monitor.Cont(ctx); err != nil {
		return true, h.tornApart("the target died as soon as it ran it", err)
	}
	return true, nil
}

// saidResume looks through what the target has said, until ctx ends or the target has.
func (w *postcopyWay) saidResume(ctx context.Context) (qmp.Event, bool) {
	ctx, cancel := context.WithTimeout(ctx, contLimit) // a dead QEMU's monitor ends
	defer cancel()
	e, err := w.events.Until(ctx, qmp.Named(qmp.EventResume))
	return e, err == nil
}

// decideLimit bounds how long a source may take to let go of its guest once it was told to.
const decideLimit = 2 * time.Second

// hasSent tells whether the source has let go of its guest, and waits until that is certain. Its channel is whole as long as qlive holds the other end.
// The error says why it has neither let go of the guest so that it can be brought back, nor kept it.
func (w *postcopyWay) hasSent(ctx context.Context) (bool, error) {
	monitor, began := w.h.cfg.Source.Monitor, time.Now()
	ctx, cancel := context.WithTimeout(ctx, giveBackLimit)
	defer cancel()
	for {
		m, err := monitor.QueryMigrate(ctx)
		switch {
		case err != nil:
			return false, err
		case m.Status == qmp.MigrationPostcopyActive, m.Status == qmp.MigrationPostcopyDevice:
			return true, nil
		case m.Status == qmp.MigrationPostcopyPaused, m.Status == qmp.MigrationCompleted, m.Status.Ended() && !failsEarly(w.h.cfg.Source) && w.wasInPostcopy():
			return false, errors.New("the source's migration is " + string(m.Status))
		case m.Status.Ended(), m.Status == qmp.MigrationNone:
			return false, nil
		case time.Since(began) > decideLimit: // it was never told, and obeys, or has let go meanwhile, and refuses
			_ = monitor.MigrateCancel(ctx)
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-w.h.cfg.Source.Gone():
			return false, nil
		case <-ctx.Done():
			return false, context.Cause(ctx)
		}
	}
}

// failsEarly tells whether the migration of such a source fails only before it has let go of its guest: afterwards it is cut off (postcopy-paused). QEMU
// since 10.2 fails also while the target loads the devices (postcopy-device), and may have sent and freed pages by then.
func failsEarly(s *Side) bool { return before(10, 2, s.Version) }

// wasInPostcopy tells whether the source has said that it had let go of its guest.
func (w *postcopyWay) wasInPostcopy() (was bool) {
	rest(w.h.ears.source, func(e qmp.Event) {
		w.note(e)
		was = was || strings.HasPrefix(string(e.MigrationStatus()), "postcopy-")
	})
	return was
}

// bringBack is the undo of the switch: with the target dead, and never having run the guest, what the source has sent of it is brought back into the
// source, which is then as it was. That takes as long as moving the guest's memory twice.
func (w *postcopyWay) bringBack(ctx context.Context) error {
	h := w.h
	if !h.sent {
		return nil
	}
	err := h.step(ctx, step{name: "bring-back", do: w.takePlace})
	if err != nil {
		return h.tornApart("the target has never run it, but what the source had sent of it could not be brought back ("+err.Error()+")", err)
	}
	h.sent = false
	if err := h.record(vmstate.Committing, nil); err != nil {
		h.cfg.Log.Error().Err(err).Msg("journal not written: the guest is in the source again")
	}
	return nil
}

// backLimit bounds how long it may take: twenty seconds for each GiB, ten times what is usual, and a minute.
func (w *postcopyWay) backLimit() time.Duration {
	limit := time.Minute
	for _, b := range w.blocks {
		limit += time.Duration(b.Bytes>>20) * 20 * time.Millisecond
	}
	return limit
}

// takePlace takes the target's place until the source has sent all, and puts it back.
func (w *postcopyWay) takePlace(ctx context.Context) error {
	if w.end == nil {
		return errors.New("cannot read on where the target has stopped: the channel is gone")
	}
	source := w.h.cfg.Source
	ctx, cancel := context.WithTimeout(ctx, w.backLimit())
	defer cancel()
	if err := source.Monitor.MigrateSetParameters(ctx, qmp.MigrateParameters{MaxPostcopyBandwidth: new(int64)}); err != nil {
		return err
	}
	pid := source.Process.PID()
	pages, err := pageback.Take(ctx, w.end, w.blocks)
	if err != nil {
		if m, qerr := source.Monitor.QueryMigrate(ctx); qerr == nil && m.Status == qmp.MigrationFailed && failsEarly(source) {
			return nil // it has kept the guest after all: before 10.2 it says postcopy-active a moment before it lets go
		}
		return err
	}
	if err := settleMigration(ctx, source.Monitor); err != nil {
		return err
	}
	m, err := source.Monitor.QueryMigrate(ctx)
	if err != nil {
		return err
	}
	if err := pages.Check(pid, m.RAM.Normal, &w.spares); err != nil {
		return err
	}
	return pages.Put(ctx, pid)
}
