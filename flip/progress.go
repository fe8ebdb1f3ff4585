package flip

import (
	"os"

	"qlive/internal/proc"
	"qlive/vmstate"
)

// observe notes what has been seen of a region. Counts and states only ever grow within a handoff.
func (h *Handoff) observe(name string, state vmstate.RegionState, mapped, populated, flipped, released uint64) {
	h.eachRegion(func(r vmstate.Region) vmstate.Region {
		if r.Name != name {
			return r
		}
		return r.Observe(mapped, populated, flipped, released).Advance(state)
	})
}

func (h *Handoff) noteRegion(name, note string) {
	h.eachRegion(func(r vmstate.Region) vmstate.Region {
		if r.Name == name {
			r.Note = note
		}
		return r
	})
	h.publish()
}

// flipped notes that the target runs the guest on all regions.
func (h *Handoff) flipped() {
	pid := h.target.Process.PID()
	h.eachRegion(func(r vmstate.Region) vmstate.Region {
		r.OwnerPID = pid
		for _, to := range h.new.set.Regions() {
			if v := to.Value(); v.Name == r.Name {
				r.Backing, r.PageBytes, r.Inode = v.Backing, v.PageBytes, v.Inode
			}
		}
		return r.Observe(0, 0, r.SizeBytes, 0).Advance(vmstate.Flipped)
	})
	h.publish()
}

// released notes that the source, whose death has been seen, holds nothing any more.
func (h *Handoff) released() {
	h.eachRegion(func(r vmstate.Region) vmstate.Region {
		return r.Observe(0, 0, 0, r.SizeBytes).Advance(vmstate.Released)
	})
	h.publish()
}

// resetRegionsLocked shows the regions as the source's own again once the handoff has been undone.
func (h *Handoff) resetRegionsLocked(end vmstate.Phase) {
	if end != vmstate.RolledBack && end != vmstate.Aborted {
		return
	}
	for i, r := range h.m.Regions {
		h.m.Regions[i] = r.Reset(h.cfg.Source.Process.PID())
	}
	h.m.Progress = 0
}

func (h *Handoff) eachRegion(f func(vmstate.Region) vmstate.Region) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var done, total uint64
	for i, r := range h.m.Regions {
		h.m.Regions[i] = f(r)
		done += h.m.Regions[i].DoneBytes
		total += h.m.Regions[i].TotalBytes
	}
	if total > 0 {
		h.m.Progress = int(done * 100 / total)
	}
}

// noteExtra notes what the host holds for the target alone: its private memory and its page tables. Guest RAM is not in it,
// since both QEMUs map the same pages.
func (h *Handoff) noteExtra() {
	s, err := proc.ReadStatus(h.target.Process.PID())
	if err != nil {
		if !os.IsNotExist(err) {
			h.logf("cannot see what the target holds: %v", err)
		}
		return
	}
	h.mu.Lock()
	h.m.ExtraBytes = max(h.m.ExtraBytes, s.RSSAnon+s.PageTables)
	h.mu.Unlock()
}
