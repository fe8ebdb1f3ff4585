// Package hostram finds where a QEMU has its guest's RAM in its own address space, and what kind of memory that is: private to it, or a
// file that others can map.
//
// It reads /proc and what QEMU says on its monitor, and changes nothing. Whoever acts on what it finds holds the process by a pidfd.
//
// The package must not import anything of qlive but internal/proc, internal/qmp and vmstate.
package hostram
