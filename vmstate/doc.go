// Package vmstate says what a VM is and what its state is, as plain values.
//
// A [Snapshot] is everything that qlive knows at one instant: the VMs with their RAM regions, the
// migrations, the daemon's health. It is built once, never changed, and handed around by pointer, so
// that REST, the FUSE tree and the metrics read it without a lock and without asking QEMU.
//
// The rules that must hold everywhere stand here once:
//
//   - [Phases] is the one table of a handoff's phases: what may follow what, where the guest runs
//     meanwhile, how it is undone. The code that hands over, the documentation's diagram and the
//     tests all read it.
//   - [Kind] is the one table of errors: HTTP status, errno, exit code and problem type of each.
//   - [RegionState] orders what can be said of a region of guest RAM.
//   - [CheckName] decides what a VM may be called.
//
// The package imports nothing else of qlive and no framework: no HTTP, no FUSE, no QMP, no clock.
// Below it, package stream reads and writes QEMU's migration stream.
package vmstate
