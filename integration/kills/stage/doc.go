// Package stage is where a qlive is killed: its daemon runs as a process of its own, as under a service manager, and what becomes of the
// guests is seen without asking it.
//
//   - [Stage] builds the program, starts its daemon with failpoints, kills it, starts it again, and clears away what is left.
//   - [Witness] follows one guest: which QEMUs of it live, whose vCPUs get processor time, and what each of them has written on the guest's
//     console. It finds fault as soon as a QEMU runs the guest after a later one has.
//   - [Course] is how a handoff goes, and the failpoints that it comes to. A [Guest] is started by the daemon, or by a stranger and adopted.
//   - [Strike] is one blow: who is killed, or made to hang, at which failpoint or instant.
//   - [Stage.Settle] tells what has become of a guest and its handoff afterwards, and finds fault with what must not be.
//
// Everything returns errors; nothing of it needs a test. It must not import the daemon: it is on the outside.
package stage
