package record

import (
	"time"

	"qlive/flip/memory"
	"qlive/internal/qemu"
	"qlive/internal/qemu/cmdline"
	"qlive/vmstate"
)

// VM is what is written down of a VM.
type VM struct {
	Spec      vmstate.VMSpec    `json:"spec"`
	Facts     cmdline.Facts     `json:"facts"`
	StartedAt time.Time         `json:"started_at"`
	Memory    []memory.Identity `json:"memory"`
	// NextMemory is what a handoff moves the guest's RAM into, made as NextSpec says; it is the VM's once the handoff has completed.
	NextMemory []memory.Identity  `json:"next_memory,omitempty"`
	NextSpec   vmstate.MemorySpec `json:"next_spec,omitzero"`
	Objects    map[string]string  `json:"objects,omitempty"` // RAM block to the id of its memory backend
	Warnings   []string           `json:"warnings,omitempty"`
	// Adoption is what was found of a QEMU that qlive did not start, as long as that one has the guest.
	Adoption *vmstate.Adoption `json:"adoption,omitempty"`

	Generations []Generation `json:"generations"` // those whose QEMU may be alive, oldest first
	Current     int          `json:"current"`     // number of the generation that has the guest; None if there is none
	Next        int          `json:"next"`        // number of the next generation
	Completed   int          `json:"completed"`   // handoffs
	Past        []string     `json:"past,omitempty"`
	Logs        []string     `json:"logs,omitempty"`     // of QEMU, oldest first
	Consoles    []string     `json:"consoles,omitempty"` // what the guest has written, oldest first

	// Ended, for a VM without a QEMU: how it shows itself, and why.
	Ended  vmstate.Status   `json:"ended,omitempty"`
	Ending *vmstate.Problem `json:"ending,omitempty"`

	Asked Asked `json:"asked,omitzero"`
}

// Asked is what somebody has asked for that ends the VM, until it is seen done.
type Asked struct {
	Kill   bool `json:"kill,omitempty"`   // its QEMUs are to be killed
	Remove bool `json:"remove,omitempty"` // it is to go off the list once it has none
}

// None is the number of no generation.
const None = -1

// Generation is one QEMU of a VM.
type Generation struct {
	Number  int           `json:"number"`
	Dir     string        `json:"dir"`
	Line    *cmdline.Line `json:"line"`
	Binary  qemu.Binary   `json:"binary"`
	Version string        `json:"version"`
	Package string        `json:"package,omitempty"`
	// Process is zero from when the QEMU is about to be started until it has been.
	Process qemu.Identity `json:"process,omitzero"`
	// Foreign: qlive did not start it. Its folder holds what qlive makes of it, and nothing of its own.
	Foreign bool `json:"foreign,omitempty"`
	// Headers are the lengths of the headers before the frames of the taps that it is given, as the QEMU before it had them, in bytes.
	Headers []int `json:"headers,omitempty"`
}

// Generation finds a generation by its number.
func (v *VM) Generation(number int) (Generation, bool) {
	for _, g := range v.Generations {
		if g.Number == number {
			return g, true
		}
	}
	return Generation{}, false
}

// Put enters g, or what is new of it.
func (v *VM) Put(g Generation) {
	for i := range v.Generations {
		if v.Generations[i].Number == g.Number {
			v.Generations[i] = g
			return
		}
	}
	v.Generations = append(v.Generations, g)
}
