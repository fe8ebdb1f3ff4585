package daemon

import (
	"qlive/flip/memory"
	"qlive/vmstate"
)

// intoNew tells whether a mode moves or copies the guest's RAM into new memory by QEMU's own means.
func intoNew(m vmstate.Mode) bool { return m == vmstate.ModePostcopy || m == vmstate.ModePrecopy }

// copyMemoryLocked makes the memory that a guest's RAM is copied into, in mode precopy: what was asked for, else what the VM's RAM would be made of by qlive. Where the RAM could
// stay where it is a copy has to be worth something: it is refused unless it is into another backing.
func (m *machine) copyMemoryLocked(asked *vmstate.MemorySpec) (*memory.Set, error) {
	a := m.adoption
	if asked == nil && (a == nil || a.Mode == vmstate.ModeShared) {
		return nil, m.cannotHandOver("in mode precopy its RAM would be copied for nothing: another QEMU can map it as it is",
			"ask for mode auto or shared; or say what the RAM shall be made of from now on (--hugepages, --hugetlbfs, --memfd), and precopy copies it there while the guest runs")
	}
	spec := m.spec.Memory
	if asked != nil {
		spec = *asked
	}
	bytes := m.memory.SizeBytes()
	if a != nil {
		bytes = ramOf(a)
	}
	m.demoteLocked() // of a handoff that was refused
	if err := m.roomForCopy(spec, bytes); err != nil {
		return nil, err
	}
	var set *memory.Set
	var err error
	if a != nil {
		var wants []memory.Want
		for _, r := range a.Regions {
			wants = append(wants, memory.Want{Name: r.Name, SizeBytes: r.SizeBytes})
		}
		set, err = memory.Create(spec, m.spec.Name, wants)
	} else {
		set, err = memory.Remake(m.memory, spec, m.spec.Name)
	}
	if err != nil {
		return nil, err
	}
	return m.nextLocked(nextRAM{set: set, spec: spec})
}

// besideCopy is what the target of a copy takes for itself, bytes; it has been seen to take half of it.
const besideCopy = 64 << 20

// roomForCopy makes sure that there is room for a second set of so many bytes of RAM beside the guest's. Huge pages are counted as they are made.
func (m *machine) roomForCopy(spec vmstate.MemorySpec, bytes uint64) error {
	need := uint64(besideCopy)
	if spec.Backing == "" || spec.Backing == vmstate.Memfd {
		need += bytes
	}
	return m.place.holds("copy the RAM of "+m.spec.Name, "a second QEMU with all of the RAM", need)
}
