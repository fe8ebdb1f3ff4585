package daemon

import (
	"time"

	"qlive/internal/qemu"
)

// binariesLook is how often qlive looks whether a running QEMU's file has been replaced, as by an upgrade of its package, for those who
// listen to events. Who reads is told at once, see Look.
const binariesLook = 10 * time.Second

// watchBinaries shows which VMs have become outdated.
func (d *Daemon) watchBinaries() {
	d.every(binariesLook, func() { d.Look("") })
}

// Look makes the next snapshot say whether the file of the VM's binary has been replaced by now; with no name, of all VMs. It looks at files and
// asks no QEMU.
func (d *Daemon) Look(vm string) {
	for _, m := range d.all() {
		if vm == "" || m.spec.Name == vm {
			m.lookAtBinary()
		}
	}
}

// shownBinary is what was last shown of a VM's binary.
type shownBinary struct {
	*qemu.Binary
	outdated bool
}

// lookAtBinary shows the VM anew if its binary's file has been replaced, or put back, since it was last shown. Unless it has, nobody is waited
// for; while a handoff switches, its end shows it.
func (m *machine) lookAtBinary() {
	b := m.binary.Load()
	if b == nil || (b.Unchanged() != nil) == b.outdated || m.switching() {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.current != nil { // else it has ended meanwhile, and may have been taken off the list
		m.publishLocked()
	}
}
