package flip

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"qlive/internal/proc"
	"qlive/internal/qmp"
	"qlive/vmstate"
)

// drainTick is how often it is looked at how far the pages have come; a look costs 4 ms for each GiB of the source, and takes a twentieth of the
// time at the most.
const drainTick = 100 * time.Millisecond

// drain waits until the last page has come. The guest runs in the target all the while; there is no limit but the death of one of the two.
func (m *postcopyMode) drain(ctx context.Context) error {
	h := m.h
	defer m.way.letGo()
	pid := h.target.Process.PID()
	h.eachRegion(func(r vmstate.Region) vmstate.Region { r.OwnerPID = pid; return r })
	h.mustEnter(vmstate.Draining)
	if err := h.step(ctx, step{name: "receive", do: m.receive}); err != nil {
		if h.target.ended() { // the source has only what it had not sent yet, and can never run again
			return errors.Join(err, h.cfg.Source.kill(ctx))
		}
		return err
	}
	h.whole = true
	if err := h.record(vmstate.Draining, nil); err != nil {
		h.cfg.Log.Error().Err(err).Msg("journal not written: all pages have come")
	}
	h.flipped()
	h.noteExtra()
	return nil
}

// receive waits for the end of the migration on both sides, and shows how far it is.
func (m *postcopyMode) receive(ctx context.Context) error {
	for {
		began := time.Now()
		m.look()
		done, err := m.arrived(ctx)
		if done || err != nil {
			return err
		}
		wait, cancel := context.WithTimeout(ctx, max(drainTick, 20*time.Since(began)))
		_, err = m.way.events.Until(wait, func(e qmp.Event) bool { return e.MigrationStatus() != "" })
		if err != nil && wait.Err() == nil && !m.h.target.EndedSoon() {
			cancel()
			return err
		}
		cancel()
	}
}

// arrived asks both how the migration stands. The target's word counts; the source's says that nothing more can come.
func (m *postcopyMode) arrived(ctx context.Context) (bool, error) {
	h := m.h
	if h.target.ended() {
		return false, h.tornApart("the target died before all pages had come", h.target.died("before all pages had come"))
	}
	alone := h.cfg.Source.ended()
	cut := h.relayDied()
	limit := contLimit
	if alone || cut != "" { // QEMU does not answer while its main loop waits for a page, and none comes any more
		limit = answerLimit
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	target, err := h.target.Monitor.QueryMigrate(ctx)
	switch {
	case err != nil && h.target.EndedSoon():
		return false, h.tornApart("the target died before all pages had come", h.target.died("before all pages had come"))
	case err != nil && alone:
		return false, h.tornApart("the source died before all pages had come", err)
	case err != nil && cut != "":
		return false, h.tornApart(cut, err)
	case err != nil && (h.cfg.Source.ended() || h.relayDied() != ""): // meanwhile
		return false, nil
	case err != nil:
		return false, fmt.Errorf("cannot see how far the guest's pages have come: %w", err)
	case target.Status == qmp.MigrationCompleted:
		return true, nil
	case target.Status == qmp.MigrationPostcopyPaused, target.Status.Ended():
		how := "the source died before all pages had come"
		if !h.cfg.Source.EndedSoon() {
			how = fmt.Sprintf("the channel broke before all pages had come (%s)", target.Status)
			how = cmp.Or(h.relayDied(), how)
		}
		return false, h.tornApart(how, nil)
	}
	return false, nil
}

// look notes of each region what has arrived, by the blocks of its file, and what the source has let go of, by its page tables.
func (m *postcopyMode) look() {
	h := m.h
	tables, err := proc.OpenPagemap(h.cfg.Source.Process.PID())
	if err != nil {
		return // it has ended
	}
	defer tables.Close()
	var twice uint64
	for _, r := range h.cfg.Memory.Regions() {
		arrived, err := r.AllocatedBytes()
		if err != nil {
			continue
		}
		kept, err := tables.PresentBytes(m.at[r.Name()])
		if err != nil {
			continue
		}
		if both := arrived + kept; both > r.SizeBytes() {
			twice += both - r.SizeBytes()
		}
		h.observe(r.Name(), vmstate.Mapped, 0, arrived, arrived, r.SizeBytes()-min(kept, r.SizeBytes()))
	}
	h.noteTwice(twice)
	h.publish()
}

// noteTwice notes what is held of guest RAM beyond its size, together with what the target holds for itself.
func (h *Handoff) noteTwice(bytes uint64) {
	s, err := proc.ReadStatus(h.target.Process.PID())
	if err != nil {
		return
	}
	h.mu.Lock()
	h.m.ExtraBytes = max(h.m.ExtraBytes, s.RSSAnon+s.PageTables+bytes)
	h.mu.Unlock()
}
