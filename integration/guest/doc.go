// Package guest makes the test guest: a Linux guest whose only program tells the truth about what
// happens to it, and the means to hear it.
//
//   - Build compiles that program (init, with its language in wire and its memory pattern in pattern)
//     and packs it into an initramfs; Append is the kernel command line that goes with it.
//   - Console is the host's end of the serial console, across the several QEMUs in which a guest
//     lives one after another.
//   - beats judges what came out of it; bootsector is the smallest guest, for KVM that runs no Linux.
//
// What the guest does by itself, measured under TCG on two idle host cores with 256 MiB and a beat of
// 2 ms, while memory is rewritten and verified: gaps of 2.0 ms at the median, 2.3 ms at p99, 4 to 6 ms
// at p99.9, 7 ms at most, by its own clock and by the host's alike. Larger gaps are the host's (tens
// of milliseconds when its cores are contended) or a handoff's. The guest's clock stands still
// while the machine is stopped, so a pause shows by the host's clock alone.
//
// The sources of the guest program are embedded, so Build needs the go tool but no checkout.
// It may be imported by tests, by the benchmark and by the demonstration; it imports nothing of the
// product.
package guest
