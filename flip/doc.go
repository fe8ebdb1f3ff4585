// Package flip hands a running guest from one QEMU to another on the same RAM.
//
// A [Handoff] walks the phases of [vmstate.Phases]: it starts the target beside the source, proves that
// both map the very same memory and agree on every RAM block, device and CPU feature, sends ahead what is not shared,
// stops the source, moves the device state by one of three ways, and runs the target. What fails before the
// target is told to run is undone, and the guest goes on in the source as it was.
//
// Invariants:
//
//   - Every step registers its undo before it runs, and has a failpoint on each side of it.
//   - The source is given its run state back only after the target is dead, which its pidfd has shown (the fence).
//   - The target gets `cont` only after the intent is in the journal and both sides have reported success.
//     After that the source never runs again, but where it is proved that the target never ran: QEMU itself refuses the `cont`, or dies
//     without having said RESUME. Then that is recorded, and the fence and the undo follow.
//   - Nothing that can be done while the guest runs is done while it stands. What is left between `stop` and the reply of
//     `cont` is: stop, save, compare what is not shared, load, one record in the journal, cont.
//
// [Recover] takes up a handoff that another daemon has left behind, and [Resolve] does what a person decides of one that has failed. Both do
// what package flip/recovery says, one thing at a time, and look again after each.
//
// In mode postcopy the commitment comes first: committing is in the journal before the source is told to switch.
//
// Memory: package flip/memory makes the RAM and keeps its descriptors. Modes ([mode]: how RAM gets into the target) and ways to switch ([way]): one
// file each.
//
// The package must not import daemon, restapi, fsview or any of their frameworks.
package flip
