package definition

import (
	"os"
	"strings"

	"qlive/vmstate"
)

// Definition is what a VM is started from.
type Definition struct {
	// Spec is what was asked for. Its binary is the QEMU that had the guest last, handoffs included.
	Spec vmstate.VMSpec
	// BootID names the boot of the host in which the VM was started last, see the function. A VM that has not been started since the
	// host booted has another one, or none.
	BootID string
}

// BootID names this boot of the host (random(4)).
func BootID() (string, error) {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(id)), err
}

// Booted tells whether the host has booted since the VM was started last; id names this boot, empty if that is not known.
func (d Definition) Booted(id string) bool { return id != "" && d.BootID != id }

// file is a definition as it is written. The order is that of the documentation.
type file struct {
	Format    string                `json:"format"`
	Level     int                   `json:"level"`
	Name      string                `json:"name"`
	Binary    string                `json:"binary"`
	Args      []string              `json:"args"`
	Memory    vmstate.MemorySpec    `json:"memory"`
	Dir       string                `json:"dir"`
	Limits    vmstate.Limits        `json:"limits"`
	Restart   vmstate.RestartPolicy `json:"restart"`
	Autostart bool                  `json:"autostart"`
	BootID    string                `json:"boot_id,omitempty"`
}

// The format that this package writes, and the highest level that it reads.
const (
	formatName = "qlive-definition"
	// Level 1 had no limits, restart, autostart and boot_id.
	formatLevel = 2
)

func fileOf(d Definition) file {
	s := d.Spec
	f := file{
		Format: formatName, Level: formatLevel, Name: s.Name, Binary: s.Binary, Args: s.Args, Memory: s.Memory, Dir: s.Dir, Limits: s.Limits,
		Restart: s.Restart.OrNever(), Autostart: s.Autostart, BootID: d.BootID,
	}
	if f.Args == nil {
		f.Args = []string{}
	}
	return f
}

func (f file) definition() Definition {
	return Definition{
		Spec: vmstate.VMSpec{
			Name: f.Name, Binary: f.Binary, Args: f.Args, Memory: f.Memory, Dir: f.Dir, Limits: f.Limits, Restart: f.Restart, Autostart: f.Autostart,
		},
		BootID: f.BootID,
	}
}
