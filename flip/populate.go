package flip

import (
	"context"
	"fmt"
	"time"

	"qlive/flip/memory"
	"qlive/internal/proc"
	"qlive/vmstate"
)

// populateTick is how often the target's page tables are looked at while it fills them; a look costs some 4 ms per GiB of
// ordinary pages.
const populateTick = 100 * time.Millisecond

// populate lets the target fill its page tables while the guest runs elsewhere, so that the guest does not meet each page as a
// fault after the switch. Filling would also fill holes, that is undo what a balloon gave back, so blocks with holes are left.
func (h *Handoff) populate(ctx context.Context) error {
	for _, r := range h.cfg.Memory.Regions() {
		note, err := h.unpopulated(r)
		if err != nil {
			return err
		}
		if note != "" {
			h.noteRegion(r.Name(), "not populated: "+note)
			continue
		}
		if err := h.populateRegion(ctx, r); err != nil {
			return err
		}
	}
	return nil
}

// unpopulated says why r is not to be populated, or nothing if it is.
func (h *Handoff) unpopulated(r *memory.Region) (string, error) {
	if h.cfg.Spec.Populate == "never" {
		return "asked not to", nil
	}
	holes, err := r.HasHoles()
	if err != nil {
		return "", err
	}
	if !holes {
		return "", nil
	}
	has, err := r.AllocatedBytes()
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("it has holes (%d of %d bytes are allocated), which filling would fill", has, r.SizeBytes()), nil
}

func (h *Handoff) populateRegion(ctx context.Context, r *memory.Region) error {
	monitor := h.target.Monitor
	done := make(chan error, 1)
	go func() { done <- monitor.QOMSet(ctx, "/objects/"+h.cfg.Objects[r.Name()], "prealloc", true) }()
	tick := time.NewTicker(populateTick)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if err := h.lookAtPageTables(r); err != nil {
				h.logf("cannot see how far %s is populated: %v", r.Name(), err)
			}
		case err := <-done:
			if err != nil {
				return fmt.Errorf("cannot populate %s: %w", r.Name(), err)
			}
			return h.lookAtPageTables(r)
		}
	}
}

// lookAtPageTables counts which pages of r the target has in its page tables.
func (h *Handoff) lookAtPageTables(r *memory.Region) error {
	pid := h.target.Process.PID()
	maps, err := proc.ReadMaps(pid)
	if err != nil {
		return err
	}
	tables, err := proc.OpenPagemap(pid)
	if err != nil {
		return err
	}
	defer tables.Close()
	var present uint64
	for _, m := range mappings(maps, r) {
		n, err := tables.PresentBytes(proc.Range{Start: m.Start, End: m.End})
		if err != nil {
			return err
		}
		present += n
	}
	state := vmstate.Mapped
	if present >= r.SizeBytes() {
		state = vmstate.Populated
	}
	h.observe(r.Name(), state, 0, present, 0, 0)
	h.publish()
	return nil
}
