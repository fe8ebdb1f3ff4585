package daemon

import (
	"encoding/json"
	"os"
	"path/filepath"

	"qlive/flip"
	"qlive/internal/qemu"
	"qlive/vmstate"
)

// handoff finds a migration that is remembered.
func (d *Daemon) handoff(id string) (*flip.Handoff, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	h := d.handoffs[id]
	if h == nil {
		return nil, vmstate.Errorf(vmstate.NotFound, "cannot find a migration called %q", id).With("`qlive migration list` shows the migrations")
	}
	return h, nil
}

// clearLeftovers removes what an earlier daemon left in the folder of a VM of that name, unless a QEMU of it still runs: then the name,
// and the guest, are not this daemon's to touch.
func (d *Daemon) clearLeftovers(vm string) error {
	dir := d.cfg.vmDir(vm)
	records, err := filepath.Glob(filepath.Join(dir, "g*", "process.json"))
	if err != nil {
		return vmstate.Errorf(vmstate.Internal, "cannot look for leftovers in %s: %w", dir, err)
	}
	for _, path := range records {
		text, err := os.ReadFile(path)
		if err != nil {
			return vmstate.Errorf(vmstate.Host, "cannot read %s: %w", path, err)
		}
		var id flip.ProcessID
		if json.Unmarshal(text, &id) != nil {
			continue // torn as its writer died: that QEMU was never met
		}
		p, err := qemu.Attach(qemu.Identity{PID: id.PID, Start: id.StartTime}, "")
		if vmstate.KindOf(err) == vmstate.Lost {
			continue
		}
		if err != nil {
			return err
		}
		if err := p.Release(); err != nil {
			return err
		}
		e := vmstate.Errorf(vmstate.Conflict, "cannot start %s: a QEMU of that name, with pid %d, was left by an earlier daemon and still runs", vm, id.PID).
			With("choose another name, or end that QEMU first")
		e.VM = vm
		return e
	}
	if err := os.RemoveAll(dir); err != nil {
		return vmstate.Errorf(vmstate.Host, "cannot clear %s: %w", dir, err)
	}
	return nil
}
