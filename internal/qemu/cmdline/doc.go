// Package cmdline reads a QEMU command line that somebody wrote without qlive, and writes the one that
// qlive runs.
//
// [Rewrite] is a pure function: the arguments, what is fixed for the guest's life ([Facts]) and where one
// generation lives ([Placement]) give one [Line]. The same call with another Placement gives the line of
// the QEMU that takes the guest over, so that both sides of a handoff agree by construction. It opens
// no file and starts nothing: what must be looked up on the host beforehand, [Paths] names.
//
// What is done to a line, and why:
//
//   - Guest RAM becomes memory-backend-file on a descriptor that qlive holds, share=on: the only form that
//     two QEMUs map together and that QEMU leaves out of the migration stream in every version.
//   - Every path that QEMU creates lies in the generation's own folder, since a QEMU unlinks the names of its
//     sockets as it ends, whoever owns them by then. Where the user named such a path, a [Name] says so,
//     and the daemon keeps a link there.
//   - What two processes cannot have at once, listening ports and host devices above all, is refused with the
//     argument's name and a remedy.
//   - Everything else reaches QEMU byte by byte as it was written, in its order. Each change is kept with its reason
//     in [vmstate.Arg].
//
// An option that the package does not know is passed on, with a warning; QEMU has the last word on it.
//
// Invariants, kept by tests: an argument without a reason is the user's own bytes; the lines of two generations differ
// in the folder, in -S and -incoming, and in what the reasons of the later one say; Rewrite never panics.
//
// The package must not import anything of qlive but vmstate.
package cmdline
