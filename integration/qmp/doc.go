// Package qmp holds the tests of internal/qmp against real QEMUs: that each command and member is spelled as the
// binaries spell it, that commands do what they say, and that a QEMU that hangs or dies is seen as such.
package qmp
