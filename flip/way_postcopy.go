package flip

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"qlive/internal/qmp"
	"qlive/vmstate"
)

// postcopyWay is QEMU's migration with postcopy: begun with next to no bandwidth while the guest runs, so that nothing of RAM is sent that would have to be sent
// again, and switched over at once when qlive commits. Where the guest is stopped first ([wayOf]), all of it happens then.
type postcopyWay struct {
	migrateWay
	was    settings          // of the source
	events *qmp.Subscription // of the target, from before it runs until all pages have come

	untouched, size uint64 // bytes of guest RAM that the source has never touched, and all of them
}

const (
	// postcopyBuffer is half of what the channel holds: the kernel doubles it. It must hold the devices, which the source sends from its main loop;
	// what is larger delays the pages that the guest waits for, since they queue behind all others.
	postcopyBuffer = 256 << 10
	// setupBandwidth, bytes/s, lets pass what a migration begins with, 25 KB of names and sizes, which is not held back, and nothing after that.
	setupBandwidth = 4096
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
	return w.connect(ctx, a, b)
}

// configureSource sets what the source must know.
func (w *postcopyWay) configureSource(ctx context.Context) error {
	want := map[string]bool{qmp.CapEvents: true, qmp.CapReturnPath: true, qmp.CapPostcopyRAM: true, qmp.CapReleaseRAM: true}
	return w.was.change(ctx, w.h, want, qmp.MigrateParameters{MaxBandwidth: new(int64(setupBandwidth)), MaxPostcopyBandwidth: new(int64)})
}

// begin lets the source set up its migration, which takes it a time that grows with RAM. The guest runs, and nothing of its RAM is sent.
func (w *postcopyWay) begin(ctx context.Context) error {
	h := w.h
	w.events = h.target.Monitor.Subscribe()
	if !w.live {
		return nil
	}
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
	return nil
}

// runTarget tells the target to run the guest as soon as it has it, and the source to switch. It returns when the guest runs in the target, or
// stands there as it stood before.
func (w *postcopyWay) runTarget(ctx context.Context) error {
	h := w.h
	if err := h.may(vmstate.ActRunTarget); err != nil {
		return err
	}
	if h.resume {
		// QEMU takes a cont while it waits for a guest as the word to run it when it has come (qmp_cont), so that no answer of ours lies in the pause.
		if err := h.target.Monitor.Cont(ctx); err != nil {
			return refused(err.Error(), err)
		}
	}
	h.told = true
	if err := w.tellSource(ctx); err != nil {
		return w.torn(ctx, err)
	}
	if err := w.arrive(ctx); err != nil {
		return w.torn(ctx, err)
	}
	h.ran = true
	return nil
}

// tellSource tells the source to let go of the guest.
func (w *postcopyWay) tellSource(ctx context.Context) error {
	commands := []qmp.Command{{Name: "migrate-start-postcopy"}}
	if !w.live {
		commands = append([]qmp.Command{qmp.MigrateCommand("fd:" + channelName)}, commands...)
		if w.h.resume {
			commands = append([]qmp.Command{qmp.StopCommand()}, commands...)
		}
	}
	calls, err := w.h.cfg.Source.Monitor.StartAll(ctx, commands...)
	if err != nil {
		return err
	}
	if !w.live && w.h.resume {
		w.h.stopped = calls[0].Sent()
	}
	for _, call := range calls {
		if err := call.Wait(ctx, nil); err != nil {
			return err
		}
	}
	return nil
}

// arrive waits until the target has the guest.
func (w *postcopyWay) arrive(ctx context.Context) error {
	h := w.h
	for {
		e, err := w.events.Next(ctx)
		if err != nil {
			return err
		}
		if _, err := ended(e, "target"); err != nil {
			return err
		}
		if e.Name == qmp.EventResume {
			w.seeStop(ctx)
			h.notePause(e.Received)
			h.noteResume(e.QEMUTime)
			return nil
		}
		if !h.resume && e.MigrationStatus() == qmp.MigrationPostcopyActive {
			return w.stands(ctx)
		}
	}
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

// torn finds out what has become of a switch that has failed. If the source never let go of the guest, that is a refusal: it goes on there. To
// know that the target has not run it, it is killed first.
func (w *postcopyWay) torn(ctx context.Context, err error) error {
	h := w.h
	if ctx.Err() != nil {
		return err // out of time: both may yet do what they were told
	}
	words := ""
	if h.target.EndedSoon() {
		words = h.target.died("as it loaded the guest").Error()
	}
	if kill := h.target.kill(ctx); kill != nil {
		return errors.Join(err, kill)
	}
	ran := false
	rest(w.events, func(e qmp.Event) { ran = ran || e.Name == qmp.EventResume })
	kept := w.kept(ctx)
	switch {
	case kept && !ran:
		return &vmstate.Error{Kind: vmstate.QEMU, Step: "run-target", Detail: "cannot switch the guest over: " + firstOf(words, err.Error()), Words: h.target.Process.Tail(5),
			Remedy: "see what QEMU says; the guest goes on in the source", Err: &refusal{err}}
	case h.cfg.Source.ended():
		return h.tornApart("the source died as it let go of it", err)
	}
	return h.tornApart("the target ended as it took it: "+firstOf(words, err.Error()), err)
}

// kept tells whether the source has kept all of the guest: its migration has failed before it let go, or has never begun. It waits until it has
// ended or is cut off for good.
func (w *postcopyWay) kept(ctx context.Context) bool {
	source := w.h.cfg.Source
	for {
		m, err := source.Monitor.QueryMigrate(ctx)
		switch {
		case err != nil, m.Status == qmp.MigrationPostcopyPaused, m.Status == qmp.MigrationCompleted:
			return false
		case m.Status.Ended() || m.Status == qmp.MigrationNone:
			// Before 10.2 it fails, rather than being cut off, only until it has sent the devices. Later ones fail also while the target loads them, and
			// have sent and freed pages by then.
			gone := false
			rest(w.h.ears.source, func(e qmp.Event) {
				w.note(e)
				gone = gone || strings.HasPrefix(string(e.MigrationStatus()), "postcopy-")
			})
			return w.live || !gone
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-source.Gone():
			return false
		case <-ctx.Done():
			return false
		}
	}
}

func firstOf(a, b string) string {
	if a != "" {
		return a
	}
	return b
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

// letGo ends the listening.
func (w *postcopyWay) letGo() {
	if w.events != nil {
		w.events.Close()
	}
}
