package daemon

import (
	"time"

	"qlive/internal/room"
)

// What must be free before something is begun: the logs, consoles and sockets of a QEMU, its device state on the way, and the
// journal. A handoff of an ordinary guest writes about a fifth of it.
const (
	runRoomBytes = 2 << 20
	runRoomFiles = 64
	// A definition is a few KiB, and is written beside the old one.
	stateRoomBytes = 256 << 10
	stateRoomFiles = 4
)

// roomLook is how often qlive looks whether its directories fill up.
const roomLook = 2 * time.Second

// The subjects of health that are about room.
const (
	runRoom   = "room in the run directory"
	stateRoom = "room in the state directory"
)

// checkRoom refuses, with the numbers, to begin what the run directory has no room for. What is what could not be done.
func (d *Daemon) checkRoom(what string) error {
	d.lookAtRoom()
	return room.Need(d.cfg.RunDir, runRoomBytes, runRoomFiles, what)
}

// lookAtRoom says in the daemon's health which directory is full, before somebody runs into it.
func (d *Daemon) lookAtRoom() {
	d.condition.set(runRoom, room.Need(d.cfg.RunDir, runRoomBytes, runRoomFiles, "start guests or hand them over"))
	d.condition.set(stateRoom, room.Need(d.cfg.StateDir, stateRoomBytes, stateRoomFiles, "keep the definitions of new VMs"))
}

// watchRoom does so until the daemon ends, and writes down what there was no room for.
func (d *Daemon) watchRoom() {
	d.every(roomLook, func() {
		d.lookAtRoom()
		d.lookAtDescriptors()
		d.definitions.retry()
	})
}
