package daemon

import (
	"errors"
	"io/fs"
	"os"

	"qlive/daemon/record"
	"qlive/flip"
	"qlive/vmstate"
)

// handoff finds a migration that is remembered.
func (d *Daemon) handoff(id string) (*flip.Handoff, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	h := d.handoffs[id]
	if h != nil {
		return h, nil
	}
	if m, ok := d.Snapshot().Migration(id); ok {
		e := vmstate.Errorf(vmstate.Conflict, "cannot reach migration %s: it is %s, and the daemon that ran it has ended", id, m.Phase).
			With("`qlive migration show " + id + "` tells what is still known of it")
		e.VM, e.Migration = m.VM, id
		return nil, e
	}
	return nil, vmstate.Errorf(vmstate.NotFound, "cannot find a migration called %q", id).With("`qlive migration list` shows the migrations")
}

// clearLeftovers removes what an earlier daemon left in the folder of a VM of that name, unless a QEMU of it still runs: then the name,
// and the guest, are not this daemon's to touch.
func (d *Daemon) clearLeftovers(vm string) error {
	if err := d.noneLeft(vm, "start"); err != nil {
		return err
	}
	dir := d.cfg.vmDir(vm)
	if err := os.RemoveAll(dir); err != nil {
		return vmstate.Errorf(vmstate.Host, "cannot clear %s: %w", dir, err)
	}
	return nil
}

// noneLeft makes sure, before something is done with what lies in the folder of a VM, that none of the QEMUs that are written down there runs.
func (d *Daemon) noneLeft(vm, what string) error {
	written, err := record.Read(d.cfg.vmDir(vm))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, g := range written.Generations {
		left, err := attach(g)
		if gone(err) {
			continue
		}
		if err != nil {
			return err
		}
		id := left.side.Process.ID()
		if err := left.side.Process.Release(); err != nil {
			return err
		}
		e := vmstate.Errorf(vmstate.Conflict, "cannot %s %s: a QEMU of that name, with pid %d, was left by an earlier daemon and still runs", what, vm, id.PID).
			With("end that QEMU first, or choose another name")
		e.VM = vm
		return e
	}
	return nil
}
