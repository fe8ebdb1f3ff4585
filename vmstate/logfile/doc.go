// Package logfile reads the text that a QEMU leaves on the host: its standard error, and what its guest writes on the console.
//
//	f, err := logfile.Open("/run/qlive/vms/vm1/g0/qemu.log")
//
// A QEMU may be hostile, and may be able to write the folder that its files lie in. So a name there is not believed: what is opened is a
// plain file with that one name, never what a symbolic link, a second name or a device leads to, and opening never waits.
//
// A guest can write without end, and what it writes takes the host's memory where the files lie on a tmpfs. So the oldest of a text is dropped
// by punching a hole into its file: its writer does not notice, and readers begin at [Info.Begin].
//
// The package imports nothing of qlive.
package logfile
