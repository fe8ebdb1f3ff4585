// Package env finds what guests on this machine are made of: the QEMUs and the
// kernel that scripts/setup leaves in the cache, and the UEFI firmware that Debian
// installs.
//
// The cache is the folder QLIVE_CACHE names, or else .cache in the checkout that the
// working directory, or the executable, lies in:
//
//	qemu/VERSION/qemu-system-x86_64
//	kernel/vmlinuz
//
// Nothing is installed, started or kept open here, and no file is written.
//
// The tests use this package, and so do the demo and the benchmark, which are part
// of the program: it must not import testing, nor any other package of qlive.
package env
