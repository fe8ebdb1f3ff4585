// Package foreign looks at a QEMU that qlive did not start: what the kernel says of its process, which monitor it has and whether that can
// be had, what kind of memory its guest's RAM is, what it holds open, and what all that means for a handoff.
//
// What holds:
//
//   - Looking changes nothing: no signal, no write, no command to QEMU that is not a question. A descriptor that is looked at by
//     pidfd_getfd(2) is a copy, closed at once.
//   - A process is named by its number and its start time, and is what it was only as long as both are; who acts on a [Process] holds
//     it by a pidfd.
//   - [Assess] is a pure function of what was found.
//   - Whatever is in the way is an obstacle with a remedy; none of it is an error. An error means that nothing can be said.
//
// The package must not import flip, daemon, restapi or fsview.
package foreign
