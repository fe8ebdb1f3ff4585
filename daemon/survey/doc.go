// Package survey tells what is known of every VM while no daemon does: what the run directory and the state directory say, which of the QEMUs
// live, and what a daemon that is started now would do.
//
// What holds:
//
//   - It only reads, and asks no QEMU anything: a monitor has one client, and a daemon may be about to start.
//   - A process is taken for a QEMU of the VM only if its pid and start time are those that were written down, or if it has the VM's own monitor
//     on its command line.
//   - What a daemon would do is looked up in the table that it decides by (package recovery), over all that the QEMUs may be found doing. It
//     is said only as far as that is certain.
//   - A file that cannot be read is said with its line and the way out, and nothing is guessed in its place.
//
// [Look] reads, [VM.Findings] says: a pure function of what was read. The package must not import package daemon.
package survey
