package daemon

import (
	"context"

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
