// Package stranger is a QEMU that somebody else has started, with its RAM private to it, and the handoff of its guest by postcopy into memory of
// qlive's, without a daemon: for tests and the benchmark.
//
// What a QEMU writes on its console goes into a file, so that no byte depends on a reader; [Guest.Truth] joins the two files.
package stranger
