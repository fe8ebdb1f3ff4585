// Package guide keeps docs/guide.md true: its test runs every command of the guide as it stands there, in its order and in one
// shell, and compares what it says with what the guide says.
//
// The commands use the paths that a host has: /run/qlive, /mnt/qlive, /usr/bin/qemu-system-x86_64, /etc/qlive. So the shell
// lives in namespaces of its own (testdata/scene.sh), where these paths are the test's, and where nothing outlives it. The
// one thing of the host that is touched is the pool of huge pages, which the test puts back.
//
// What the reader's host would have and the test's has not, the scene provides: a disk image (a boot sector that counts on the
// console), QEMUs unpacked below /opt, and an apt whose `install` replaces /usr/bin/qemu-system-x86_64 as Debian's would.
package guide
