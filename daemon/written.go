package daemon

import (
	"slices"
	"time"

	"qlive/daemon/record"
	"qlive/vmstate"
)

// writtenLocked is the VM as it is written down.
func (m *machine) writtenLocked() record.VM {
	v := record.VM{
		Spec: m.spec, Facts: m.facts, StartedAt: m.value.StartedAt, Memory: m.identities, Objects: m.objects, Warnings: m.value.Warnings,
		NextMemory: m.next.identities, NextSpec: m.next.spec, Adoption: m.adoption,
		Generations: m.written, Current: record.None, Next: m.number, Completed: m.completed, Past: m.past, Logs: m.logs, Consoles: m.consoles,
		Asked: m.asked,
	}
	for _, g := range m.written {
		v.Next = max(v.Next, g.Number+1)
	}
	if m.current != nil {
		v.Current = m.current.number
	} else if m.status != "" {
		v.Ended, v.Ending = m.status, m.ending
	}
	return v
}

// writeLocked writes the VM down. It is never called while the guest stands in a handoff.
func (m *machine) writeLocked() error {
	return record.Write(m.d.cfg.vmDir(m.spec.Name), m.writtenLocked())
}

// noteLocked writes the VM down after something has happened that cannot be undone any more: that it could not be written is said, and the
// next time it may succeed. Who has the guest stands in the journal all the same.
func (m *machine) noteLocked() {
	if err := m.writeLocked(); err != nil {
		m.log.Error().Err(err).Msg("VM not written down")
	}
}

// noteMigration writes a migration down that has ended, unless the VM has gone with it.
func (m *machine) noteMigration(v vmstate.Migration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.asked.Remove && m.current == nil {
		return
	}
	if err := record.WriteMigration(m.d.cfg.vmDir(m.spec.Name), v); err != nil {
		m.log.Error().Err(err).Str("migration", v.ID).Msg("migration not written down")
	}
}

// writeGeneration writes a QEMU down that is about to be started, or has been.
func (m *machine) writeGeneration(g record.Generation) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	v := record.VM{Generations: slices.Clone(m.written)}
	v.Put(g)
	m.written = v.Generations
	return m.writeLocked()
}

// writeFirst writes down that the VM's first QEMU has the guest, before it runs.
func (m *machine) writeFirst(g *generation) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var err error
	if m.identities, err = m.memory.Identities(); err != nil {
		return err
	}
	m.value.StartedAt = time.Now().UTC()
	v := m.writtenLocked()
	v.Current = g.number
	return record.Write(m.d.cfg.vmDir(m.spec.Name), v)
}

// forgetGenerationLocked takes a QEMU that has ended out of what is written down.
func (m *machine) forgetGenerationLocked(number int) {
	m.written = slices.DeleteFunc(slices.Clone(m.written), func(g record.Generation) bool { return g.Number == number })
}

// written is the plan as it is written down, before its QEMU has a process.
func (p *plan) written() record.Generation {
	return record.Generation{Number: p.number, Dir: p.dir, Line: p.line, Binary: *p.binary, Version: p.info.Version.String(), Package: p.info.Package}
}

// brokenValue is how a VM shows itself of which nothing is known but its name.
func brokenValue(name string, err error) vmstate.VM {
	return vmstate.VM{Name: name, Status: vmstate.Broken, RunState: "none", Error: vmstate.ProblemOf(err)}
}
