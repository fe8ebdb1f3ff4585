// Package logfile reads the text that a QEMU leaves on the host: its standard error, and what its guest writes on the console.
//
//	f, err := logfile.Open("/run/qlive/vms/vm1/g0/qemu.log")
//
// A QEMU may be hostile, and may be able to write the folder that its files lie in. So a name there is not believed: what is opened is a
// plain file with that one name, never what a symbolic link, a second name or a device leads to, and opening never waits.
//
// The package imports nothing of qlive.
package logfile
