// Package definition tests what outlives a VM's QEMU, the daemon and the host: that a VM can be started again, by a person, after a
// failure and after a boot, that doctor knows of it while the daemon is dead, and what happens where there is no room.
package definition
