// Package record is what the daemon writes down of each VM in the run directory, so that a daemon started later takes it up: what
// it was started from, the files that its RAM is, each QEMU that has or had it, and which of them has it now. docs/formats.md
// describes the file.
//
// What holds:
//
//   - The file is there, whole, before the first QEMU of a VM is started, and names each QEMU before that one is started: a QEMU
//     that nobody wrote down runs no guest.
//   - It is replaced in one step: a reader sees one version or the next, whenever its writer dies.
//   - It follows the journal, and is never written while the guest stands: where the two differ about who has the guest, the
//     journal is right.
//   - It lives as long as the host, on tmpfs, and so do guests: nothing is synced.
//   - A level that this package does not know is refused by name, never guessed at.
//
// The package holds values and reads and writes files; it starts and asks nothing. It must not import package daemon.
package record
