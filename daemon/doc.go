// Package daemon is qlive's life: it reads the configuration, owns the VMs and their QEMUs, runs the handoffs, and shows
// all of it through REST and the FUSE tree.
//
// How it hangs together:
//
//   - [registry] holds the one truth: VMs, migrations, health. Each change makes a new immutable snapshot, which the faces
//     read without a lock, and an event, which the [hub] hands to whoever listens.
//   - [machine] is one VM: its memory, the QEMU that has it, its public names. Its mutex orders what is done to it; a
//     handoff takes the machine for itself, and everything else is refused or obeyed around it.
//   - [custody] has the service manager hold the descriptors of guests' RAM, and [pulse] tells it that the daemon is well, as long as
//     everybody in it answers. Without a manager both do nothing.
//   - [Daemon] wires them, opens in one order (run directory, tree, socket) and closes in the reverse.
//
// Lock order: machine.gate, machine.mu, Daemon.mu, registry.mu, hub.mu; custody.mu is the last, too. Nobody
// calls QEMU with the last four held.
//
// The package may import everything; nothing but cmd imports it.
package daemon
