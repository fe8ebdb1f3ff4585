// Package cpr holds the tests of mode cpr, QEMU's cpr-transfer, on real guests: to newer and older QEMUs and back, what is refused and why, and
// what becomes of the guest when the source, the target or the daemon dies or hangs. There is nothing to import.
package cpr
