package daemon

import (
	"context"
	"errors"
	"path/filepath"

	"qlive/flip"
	"qlive/flip/memory"
	"qlive/internal/definition"
	"qlive/vmstate"
)

// movesFile is the ledger, in a VM's folder, of the RAM that has been moved into another backing.
const movesFile = "moves"

// nextRAM is the RAM that a handoff makes to move the guest's into. It is zero while none does, and becomes the VM's when the handoff has completed.
type nextRAM struct {
	set        *memory.Set
	identities []memory.Identity // written down
	spec       vmstate.MemorySpec
}

// checkRehousing refuses what cannot be asked for together with another backing.
func checkRehousing(spec vmstate.MigrationSpec) error {
	switch spec.Mode {
	case vmstate.ModePrecopy:
		return nil
	case "", vmstate.ModeAuto, vmstate.ModeShared:
	default:
		return vmstate.Errorf(vmstate.Invalid, "cannot hand %s over in mode %s and change what its RAM is made of", spec.VM, spec.Mode).
			With("leave the mode out: RAM that is qlive's is moved while the guest stands; or ask for mode precopy, which copies it while the guest runs")
	}
	if spec.Way != "" && spec.Way != vmstate.WayAuto && spec.Way != vmstate.WayDeviceState {
		return vmstate.Errorf(vmstate.Invalid, "cannot hand %s over by way %s and change what its RAM is made of: the source must stay in no migration meanwhile", spec.VM, spec.Way).
			With("leave the way out, or say device_state")
	}
	return nil
}

// rehousing is what flip needs to know; nil if qlive does not move RAM.
func (r *run) rehousing(to *vmstate.MemorySpec) *flip.Rehousing {
	if to == nil || r.mode == vmstate.ModePrecopy {
		return nil
	}
	var warnings []string
	if to.Backing != vmstate.Hugetlb && to.Backing != vmstate.Hugetlbfs && r.m.place.group != nil { // memory is charged to whoever touches it first
		warnings = append(warnings, "the pages of the guest's RAM are counted to the daemon's cgroup from now on, and not to the VM's, until it is started anew")
	}
	return &flip.Rehousing{
		Warnings: warnings,
		Make:     func(ctx context.Context) (*memory.Set, error) { return r.m.makeNext(ctx, *to) },
		Ledger:   r.m.ledgerPath(), Nodes: to.Nodes,
	}
}

func (m *machine) ledgerPath() string { return filepath.Join(m.d.cfg.vmDir(m.spec.Name), movesFile) }

// makeNext makes the RAM that the guest's is to be moved into. It is written down and stored before anything is moved there.
func (m *machine) makeNext(_ context.Context, spec vmstate.MemorySpec) (_ *memory.Set, err error) {
	var ram []memory.Want
	for _, r := range m.memory.Regions() {
		ram = append(ram, memory.Want{Name: r.Name(), SizeBytes: r.SizeBytes()})
	}
	asked := m.spec
	asked.Memory = spec
	if err := roomForRAM(asked, ram); err != nil {
		return nil, err
	}
	set, err := memory.Remake(m.memory, spec, m.spec.Name)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.nextLocked(nextRAM{set: set, spec: spec})
}

// nextLocked makes new RAM what the guest's is to be moved or copied into: it is written down and stored before anything maps it. If it cannot be it is closed.
func (m *machine) nextLocked(next nextRAM) (_ *memory.Set, err error) {
	next.identities, err = next.set.Identities()
	m.next = next
	if err = errors.Join(err, m.place.user.Own(next.set.Files())); err == nil {
		err = m.writeLocked()
	}
	if err != nil {
		m.next = nextRAM{}
		return nil, errors.Join(err, next.set.Close())
	}
	m.d.custody.keep(m.spec.Name, m.memory, next.set)
	return next.set, nil
}

// memoryFor is the RAM that the target of a handoff maps.
func (m *machine) memoryFor(r *run) *memory.Set {
	m.mu.Lock()
	defer m.mu.Unlock()
	if r.memory != nil || intoNew(r.mode) {
		return m.next.set
	}
	return m.memory
}

// promoteLocked makes the RAM that the guest's was moved into the VM's, and lets go of the old one. It comes when the target has the guest.
func (m *machine) promoteLocked() {
	next := m.next
	if next.identities == nil {
		return
	}
	old := m.memory
	m.memory, m.identities, m.next = next.set, next.identities, nextRAM{}
	m.spec.Memory, m.facts.PageBytes = next.spec, next.spec.PageBytes
	if next.set == nil {
		m.unfit = m.noNext
	} else if m.noMemory != nil && errors.Is(m.unfit, m.noMemory) {
		m.unfit = nil
	}
	m.noteLocked() // before the descriptors change their names, so that the next daemon knows what is whose
	m.d.custody.keep(m.spec.Name, m.memory, nil)
	if err := old.Close(); err != nil {
		m.log.Warn().Err(err).Msg("RAM that the guest was moved out of not let go of")
	}
}

// noteMemory writes what the VM's RAM is made of now into its definition.
func (m *machine) noteMemory() {
	m.mu.Lock()
	spec := m.spec.Memory
	m.mu.Unlock()
	m.d.definitions.change(m.spec.Name, func(def *definition.Definition) { def.Spec.Memory = spec })
}

// demoteLocked gives up the RAM that the guest's was to be moved into: the source has all of it.
func (m *machine) demoteLocked() {
	next := m.next
	if next.identities == nil {
		return
	}
	m.next = nextRAM{}
	if err := next.set.Close(); err != nil {
		m.log.Warn().Err(err).Msg("RAM that the guest was to be moved into not let go of")
	}
	if m.memory != nil {
		m.d.custody.keep(m.spec.Name, m.memory, nil)
	}
}

// reopenNext finds the RAM again that a handoff was moving the guest's into.
func (m *machine) reopenNext(finds ...memory.Find) {
	if m.next.identities == nil {
		return
	}
	var err error
	if m.next.set, err = memory.Reopen(m.next.identities, finds...); err != nil {
		m.log.Warn().Err(err).Msg("RAM that the guest was being moved into not found again")
		m.noNext = named(err, m.spec.Name)
	}
}
