package daemon

import "qlive/internal/scarcity"

// descriptorsNeeded is how many descriptors must be left before something is begun: the RAM of a guest and a QEMU take some twenty, and those that
// only look need one each.
const descriptorsNeeded = 64

// descriptors is the subject of health that is about them.
const descriptors = "descriptors"

// lookAtDescriptors says in the daemon's health that they run short, before somebody runs into it.
func (d *Daemon) lookAtDescriptors() {
	d.condition.set(descriptors, scarcity.Descriptors("start guests or hand them over", descriptorsNeeded))
}
