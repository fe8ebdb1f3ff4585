// Package demo is `qlive demo`: it shows the main job of qlive to somebody who has never seen it, and measures what it cost.
//
// It starts a daemon of its own, the way anyone would, boots a Linux guest, hands it through the QEMUs that are there and back,
// and asks the guest itself what it felt. What it prints as a command is run by a shell exactly as printed, and what stands
// below is what that said.
//
// Invariants:
//
//   - Every number in the table was measured in this run. A beat lost, memory that differs or a handoff that did not
//     complete is an error.
//   - Nothing stays behind, however it ends: everything that it makes is in one folder, or is a process whose environment
//     names that folder. A signal ends it in good order, and what a killed run could not tidy up the next one does.
//   - It talks to the daemon by REST, by the tree and by the command line alone.
//
// It is part of the program: it must not import testing, nor the daemon.
package demo
