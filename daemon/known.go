package daemon

import (
	"context"

	"qlive/daemon/survey"
	"qlive/internal/qemu"
	"qlive/internal/room"
	"qlive/vmstate"
)

// newMachine is a VM that has not been started.
func (d *Daemon) newMachine(spec vmstate.VMSpec) *machine {
	return &machine{
		d: d, spec: spec, log: d.log.With().Str("vm", spec.Name).Logger(), value: vmstate.VM{Name: spec.Name},
		settled: make(chan struct{}), released: make(chan struct{}),
	}
}

// startFirst starts a VM that is not known yet. Its definition is written first, and taken back if it does not start.
func (d *Daemon) startFirst(ctx context.Context, m *machine, binary *qemu.Binary) (err error) {
	if err := d.definitions.begin(m.spec); err != nil {
		d.lookAtRoom()
		return err
	}
	defer undo(&err, func() error { return d.definitions.drop(m.spec.Name) })
	return room.Explain(d.cfg.RunDir, d.start(ctx, m, binary))
}

// removeStopped takes a VM that has no QEMU off the list.
func (d *Daemon) removeStopped(m *machine) error {
	name := m.spec.Name
	if err := d.claim(m, "remove"); err != nil {
		return err
	}
	err := d.noneLeft(name, "remove")
	if kind := vmstate.KindOf(err); err != nil && kind != vmstate.Conflict { // what cannot be read can be removed, if nothing of it lives
		if live, looked := survey.Living(d.cfg.vmDir(name)); looked == nil && len(live) == 0 {
			err = nil
		}
	}
	if err == nil {
		err = d.definitions.drop(name)
	}
	if err != nil {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.machines[name] = m
		return err
	}
	d.forget(m)
	return nil
}
