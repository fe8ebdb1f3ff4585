// Package cmdline shows with real QEMUs that the command lines which qlive writes are ones that they run: as the QEMU
// that starts a guest and, beside it on the same RAM, as the QEMU that takes it over. It holds nothing but tests.
package cmdline
