// Package beats judges what a test guest said on its serial console: whether any beat was lost,
// repeated, torn or out of order, how long the longest silence was by the guest's clock and by the
// host's, how often the guest booted, and what its verifications of memory found.
//
// The console may come from several QEMUs one after another: give the parser the bytes of the first
// to their end, then those of the next. Lines may be cut anywhere between two Feeds.
//
// Invariants: the parser's memory does not grow with the length of the stream but by a bounded amount
// per boot and per fault; Report can be had at any time and does not depend on how the
// stream was cut. It judges and never corrects: what it cannot read is counted.
package beats
