package flip

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"qlive/flip/pageback"
	"qlive/internal/qmp"
	"qlive/vmstate"
	"qlive/vmstate/stream"
)

// postcopyWay is QEMU's migration with postcopy: begun with next to no bandwidth while the guest runs, so that nothing of RAM is sent that would have to be sent
// again. Once qlive has committed it stops the guest, and QEMU switches over. The bandwidth stays that low until the target runs the guest, but for the
// pages that it asks for as it loads ([postcopyWay.arrive]): so long all can be brought back ([postcopyWay.bringBack]).
type postcopyWay struct {
	migrateWay
	was    settings          // of the source
	events *qmp.Subscription // of the target, from before it runs until all pages have come
	blocks []pageback.Block  // of the source
	spares pageback.Spares   // of what the source sends before the target runs
	end    *os.File          // the target's end of the channel, too, until the target runs: with it dead, what it had not read is here
}

const (
	// postcopyBuffer is half of what the channel holds: the kernel doubles it. It must hold the devices, which the source sends from its main loop;
	// what is larger delays the pages that the guest waits for, since they queue behind all others.
	postcopyBuffer = 256 << 10
	// heldBandwidth, bytes/s, lets pass what is not held back: what a migration begins with, 25 KB of names and sizes, and the devices. Beyond that QEMU
	// sends 32 pages each 100 ms at the most (migration_rate_limit, and MAX_IOV_SIZE in migration/qemu-file.c).
	heldBandwidth = 4096
)

func (w *postcopyWay) prepare(ctx context.Context) error {
	if err := w.standsSinceItCame(); err != nil {
		return err
	}
	if err := w.configureSource(ctx); err != nil {
		return err
	}
	a, b, err := w.channel()
	if err != nil {
		return err
	}
	fd, err := unix.FcntlInt(b.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return errors.Join(fmt.Errorf("cannot keep the channel: %w", err), a.Close(), b.Close())
	}
	w.end = os.NewFile(uintptr(fd), "migration-b")
	return w.connect(ctx, a, b)
}

// configureSource sets what the source must know.
func (w *postcopyWay) configureSource(ctx context.Context) error {
	want := map[string]bool{qmp.CapEvents: true, qmp.CapReturnPath: true, qmp.CapPostcopyRAM: true, qmp.CapReleaseRAM: true}
	return w.was.change(ctx, w.h, want, qmp.MigrateParameters{MaxBandwidth: new(int64(heldBandwidth)), MaxPostcopyBandwidth: new(int64(heldBandwidth))})
}

// begin lets the source set up its migration, which takes it a time that grows with RAM. The guest runs, and nothing of its RAM is sent.
func (w *postcopyWay) begin(ctx context.Context) error {
	h := w.h
	w.events = h.target.Monitor.Subscribe()
	if err := h.cfg.Source.Monitor.Migrate(ctx, "fd:"+channelName); err != nil {
		return err
	}
	return h.target.unlessItEnds(ctx, "as the migration began", func(ctx context.Context) error {
		for {
			e, err := h.ears.source.Next(ctx)
			if err != nil {
				return err
			}
			w.note(e)
			switch status := e.MigrationStatus(); {
			case status == qmp.MigrationActive:
				return nil
			case status.Ended():
				return w.reason(ctx, fmt.Errorf("cannot begin to move the guest: the source's migration has %s", status))
			}
		}
	})
}

// switchOver makes sure that nothing has happened to guest and migration: QEMU itself stops the guest, once qlive has committed.
func (w *postcopyWay) switchOver(ctx context.Context) error {
	if err := w.stillRuns(ctx); err != nil {
		return err
	}
	rest(w.h.ears.source, w.note)
	if w.h.over != "" {
		return disturbed(w.h.over)
	}
	return w.taken(ctx)
}

const (
	// takenLimit bounds how long the target may take to read what a migration begins with.
	takenLimit = 2 * time.Second
	// placedLimit bounds how long it is waited for what has been read to be in its place.
	placedLimit = 300 * time.Millisecond
)

// taken waits until the target has read what there is, so that it has nothing in hand when the guest is switched: some pages are sent at the beginning.
func (w *postcopyWay) taken(ctx context.Context) error {
	for began := time.Now(); ; {
		unread, err := unix.IoctlGetInt(int(w.end.Fd()), unix.TIOCINQ)
		switch {
		case err != nil:
			return fmt.Errorf("cannot see what the target has read: %w", err)
		case unread == 0 && (w.allPlaced(ctx) || time.Since(began) > placedLimit):
			return w.spares.Begin(w.blocks)
		case w.h.target.ended():
			return w.h.target.died("as the migration began")
		case time.Since(began) > takenLimit:
			return vmstate.Errorf(vmstate.Timeout, "cannot hand over: the target has not read what the migration begins with for %s", takenLimit).
				With("find out what it hangs in; the guest goes on in the source")
		}
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// allPlaced tells whether all that the source has sent is where it belongs, and none of it in the target's hands.
func (w *postcopyWay) allPlaced(ctx context.Context) bool {
	m, err := w.h.cfg.Source.Monitor.QueryMigrate(ctx)
	return err == nil && pageback.Quiet(w.blocks, m.RAM.Normal)
}

// runTarget tells the target to run the guest as soon as it has it, and the source to switch. It returns when the guest runs in the target, or
// stands there as it stood before. Whatever goes wrong before that is a refusal, if the target has not run: the guest goes back. So it does at max_pause_ms.
func (w *postcopyWay) runTarget(ctx context.Context) error {
	h := w.h
	if err := h.may(vmstate.ActRunTarget); err != nil {
		return err
	}
	limit := time.Duration(h.cfg.Spec.MaxPauseMS) * time.Millisecond
	pause, done := context.WithTimeoutCause(ctx, limit, h.tooLong())
	defer done()
	if h.resume {
		// QEMU takes a cont while it waits for a guest as the word to run it when it has come (qmp_cont), so that no answer of ours lies in the pause.
		if err := h.target.Monitor.Cont(pause); err != nil {
			return refused(err.Error(), err)
		}
	}
	h.told = true
	err := h.run(pause, step{name: "let-go", do: w.tellSource}, step{name: "arrive", do: w.arrive})
	if err != nil {
		err = w.undecided(context.WithoutCancel(ctx), pause, err)
	}
	if err != nil {
		return err
	}
	h.ran = true
	w.letLoose(ctx)
	return nil
}

// letLoose lets the pages follow the guest, which runs in the target.
func (w *postcopyWay) letLoose(ctx context.Context) {
	if err := w.sift(); err != nil {
		w.h.warn("what the guest has never touched takes memory: %v", err)
	}
	err := w.h.cfg.Source.Monitor.MigrateSetParameters(ctx, qmp.MigrateParameters{MaxPostcopyBandwidth: new(int64)})
	if err = errors.Join(err, w.wake("")); err != nil {
		w.h.warn("the source may send the guest's memory slowly: %v", err)
	}
	w.closeEnd()
}

// tellSource stops the guest and tells the source to let go of it.
func (w *postcopyWay) tellSource(ctx context.Context) error {
	commands := []qmp.Command{{Name: "migrate-start-postcopy"}}
	if w.h.resume {
		commands = append([]qmp.Command{qmp.StopCommand()}, commands...)
	}
	calls, err := w.h.cfg.Source.Monitor.StartAll(ctx, commands...)
	if err != nil {
		return err
	}
	if w.h.resume {
		w.h.stopped = calls[0].Sent()
	}
	for _, call := range calls {
		if err := call.Wait(ctx, nil); err != nil {
			return err
		}
	}
	return w.wake(w.blocks[0].Name)
}

// wake lets the source's migration, which sleeps for up to 100 ms when it is held down, look at once what it has been told: it is woken by a page that is
// asked for (migration_make_urgent_request in migration/migration.c). Qlive asks for the first page of a block, as the target does: of that which it names,
// or, with no name, of that which was asked for last.
func (w *postcopyWay) wake(block string) error {
	if w.end == nil {
		return nil
	}
	if _, err := w.end.Write(stream.AppendPageRequest(nil, block, 0, stream.PageBytes)); err != nil {
		return fmt.Errorf("cannot ask the source for a page: %w", err)
	}
	return nil
}

// resumed notes how long the pause was, by the target's RESUME.
func (w *postcopyWay) resumed(ctx context.Context, e qmp.Event) {
	w.seeStop(ctx)
	w.h.notePause(e.Received)
	w.h.noteResume(e.QEMUTime)
}

// stopLimit bounds how much later the source's STOP may be read than the target's RESUME, which came after it.
const stopLimit = time.Second

// seeStop waits for the source's STOP, which the pause is counted from. It is on its way.
func (w *postcopyWay) seeStop(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, stopLimit)
	defer cancel()
	for w.h.qemuStop.IsZero() {
		e, err := w.h.ears.source.Next(ctx)
		if err != nil {
			return // then nobody knows how long it was
		}
		w.note(e)
	}
}

// stands waits until a guest that stood has come to stand in the target, of which QEMU says nothing by itself.
func (w *postcopyWay) stands(ctx context.Context) error {
	for {
		state, err := w.h.target.Monitor.QueryStatus(ctx)
		if err != nil || state.Status != qmp.RunInMigrate {
			return err
		}
		select {
		case <-time.After(2 * time.Millisecond):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// tornApart is the end of a guest of which neither QEMU has all.
func (h *Handoff) tornApart(how string, cause error) error {
	h.torn = true
	remedy := "start the guest anew"
	if !h.target.ended() || h.phase() == vmstate.Committing {
		remedy += "; `qlive resolve " + h.cfg.Migration.VM + " --to discard` clears away what is left"
	}
	return &vmstate.Error{
		Kind: vmstate.Lost, Step: string(h.phase()), VM: h.cfg.Migration.VM, Migration: h.cfg.Migration.ID, Err: cause,
		Detail: "the guest is lost: " + how + ", and neither QEMU has all of its memory",
		Remedy: remedy,
	}
}

// release gives the source back what it had been told before.
func (w *postcopyWay) release(ctx context.Context) error {
	monitor := w.h.cfg.Source.Monitor
	return errors.Join(takeBackMigration(ctx, monitor), w.was.giveBack(ctx, monitor))
}

// close lets go of the channel.
func (w *postcopyWay) close() {
	w.closeEnd()
	w.migrateWay.close()
}

func (w *postcopyWay) closeEnd() {
	if w.end != nil {
		_ = w.end.Close() // a socket
		w.end = nil
	}
}

// letGo ends the listening.
func (w *postcopyWay) letGo() {
	if w.events != nil {
		w.events.Close()
	}
}
