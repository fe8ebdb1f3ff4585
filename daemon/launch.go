package daemon

import (
	"context"
	"errors"
	"slices"

	"qlive/daemon/record"
	"qlive/flip/memory"
	"qlive/internal/journal"
	"qlive/internal/qemu"
	"qlive/vmstate"
)

// launch starts the VM's first QEMU: checked before the guest's first instruction, then let go.
func (m *machine) launch(ctx context.Context, binary *qemu.Binary) (err error) {
	p, err := m.planGeneration(ctx, binary, m.facts, 0, "", false)
	if err != nil {
		return err
	}
	if err := roomForRAM(m.spec, wants(p.line)); err != nil {
		return err
	}
	if m.memory, err = memory.Create(m.spec.Memory, m.spec.Name, wants(p.line)); err != nil {
		return err
	}
	defer undo(&err, m.memory.Close)
	m.lastKeeper = record.None
	if m.identities, err = m.memory.Identities(); err != nil {
		return err
	}
	if err := m.place.user.Own(m.memory.Files()); err != nil {
		return err
	}
	g, err := m.startGeneration(ctx, p, m.memory, around{})
	if g != nil {
		defer undo(&err, g.discard)
	}
	if err != nil {
		return err
	}
	if err := m.checkFirst(ctx, g); err != nil {
		return err
	}
	m.d.custody.keep(m.spec.Name, m.memory, nil)
	defer undo(&err, func() error { m.d.custody.release(m.spec.Name); return nil })
	if m.names, err = newPublicNames(m.spec.Dir, p.line.Names); err != nil {
		return err
	}
	defer undo(&err, func() error { m.names.remove(); return nil })
	if m.journal, err = journal.Open(record.JournalOf(m.d.cfg.vmDir(m.spec.Name))); err != nil {
		return err
	}
	defer undo(&err, m.journal.Close)
	if err := m.writeFirst(g); err != nil {
		return err
	}
	events := g.side.Monitor.Subscribe()
	if !p.line.Paused {
		if err := g.side.Monitor.Cont(ctx); err != nil {
			events.Close()
			return vmstate.Errorf(vmstate.QEMU, "cannot let the guest run: %w", err)
		}
	}
	m.begin(g)
	m.d.tasks.Go(func() { m.watch(g, events) })
	// The guest runs: from here on nothing is undone, and if it has ended already the watcher says so.
	if err := m.refresh(context.WithoutCancel(ctx), g); err != nil {
		m.log.Warn().Err(err).Msg("run state not read")
	}
	return nil
}

// undo runs f if the function that defers it fails.
func undo(err *error, f func() error) {
	if *err != nil {
		*err = errors.Join(*err, f())
	}
}

// checkFirst makes sure, before the guest's first instruction, that it can be handed over at all.
func (m *machine) checkFirst(ctx context.Context, g *generation) error {
	migration, err := g.side.Monitor.QueryMigrate(ctx)
	if err != nil {
		return err
	}
	if len(migration.BlockedReasons) > 0 {
		return &vmstate.Error{
			Kind: vmstate.Unsupported, VM: m.spec.Name, Detail: "cannot start " + m.spec.Name + ": QEMU says that this guest could never be handed over",
			Words: migration.BlockedReasons, Remedy: "leave out the device or the option that QEMU names",
		}
	}
	return m.learnBlocks(ctx, g)
}

// begin makes g the QEMU that has the guest.
func (m *machine) begin(g *generation) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.current, m.number = g, g.number+1
	m.keepsLocked(g)
	m.status = vmstate.Starting
	m.value = vmstate.VM{
		Name: m.spec.Name, StartedAt: m.value.StartedAt, Machine: m.facts.Machine.Name,
		Warnings: slices.Concat(g.line.Warnings, m.memory.Warnings(), m.place.warnings()),
	}
	if m.whyAgain != "" {
		m.value.Warnings = append(m.value.Warnings, m.whyAgain)
	}
	m.value.Adoption = m.adoption
	m.value.Regions = m.ownedBy(g)
	for _, r := range m.value.Regions {
		m.value.RAMBytes += r.SizeBytes
	}
	m.noteLocked()
	m.publishLocked()
}
