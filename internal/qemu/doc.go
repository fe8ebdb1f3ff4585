// Package qemu runs QEMU binaries: it decides which ones may run at all ([Admit]), finds out what a binary is ([Prober]),
// learns from the host what a command line needs to know ([Learn]), and starts, watches and kills processes ([Process]).
// The command line itself is package cmdline's.
//
// Invariants:
//
//   - Nothing is ever signalled by a bare number: a [Process] holds a pidfd from the moment of its birth, or, for a process
//     that somebody else has started, from a moment at which its start time was compared.
//   - What runs is the file that was admitted: it is found and executed by descriptors, never by a path that was checked before.
//   - A process inherits the descriptors that it is given, a script its own beside them, and no other.
//   - QEMU's output goes to a file, never to a pipe of ours: it must not block or die with the daemon.
//   - A process outlives the one that has started it, unless it is Brief; only Kill ends it.
//   - A version comes from QMP, never from a file's name.
//
// Goroutines: one for each Process, which ends with the process or with Release; Release waits for it.
//
// The package must not import anything of qlive but vmstate, internal/qmp and internal/proc.
package qemu
