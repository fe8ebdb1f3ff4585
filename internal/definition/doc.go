// Package definition keeps what a VM is started from, in the state directory, where it outlives the VM's QEMU, the daemon and
// the host: one file a VM, vms/NAME.json.
//
// What holds:
//
//   - A file is the old one or the new one, whole, and synced to the disk before [Store.Put] returns.
//   - A file has a format level. A newer one than this package knows is refused, and never written over; an older one is brought
//     up to date by a table of steps, and stays as it was until the new one stands in its place.
//   - People may edit a file. What is in it is checked in full when it is read, unknown members included, and an error names the file,
//     the line and the way out.
//
// The format is described in docs/formats.md. Whether the VM runs is not said here: that is known from the run directory
// alone.
//
// The package must not import anything of qlive but vmstate, internal/atomicfile and internal/room.
package definition
