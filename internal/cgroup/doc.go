// Package cgroup gives each VM a cgroup (version 2) of its own, in which all of its QEMUs live, one after the other and, during a
// handoff, side by side.
//
// It is one for all of them because guest RAM is charged to the cgroup of the process that touches a page first, for as long as the page is there: a
// cgroup for each QEMU would leave the RAM with the first one, and a limit would bound nothing. Limits sit on that cgroup.
//
// The cgroups of VMs lie below a folder of qlive's own, not in the cgroup of the daemon's unit: systemd then never counts a guest as part
// of the daemon, whatever KillMode says, and the unit's cgroup needs no inner processes.
//
// Invariants:
//
//   - A process is born in its cgroup (CLONE_INTO_CGROUP): nothing that it does is ever charged elsewhere.
//   - A limit that was asked for is either set or an error; it is never dropped in silence.
//   - Nothing but empty cgroups is removed; the kernel refuses others.
//
// The package must not import anything of qlive but vmstate and internal/proc.
package cgroup
