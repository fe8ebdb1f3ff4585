// Package bench measures handoffs: qlive through its daemon and its REST interface, and in the same run, in turn with it, the
// floors (bare clients that do the least that works, one for each way to switch) and what QEMU offers by itself (a plain copy
// and cpr-transfer).
//
// [Run] boots the guests of one scene after the other, hands each over many times there and back, and describes what was seen as
// a [Report]. How it keeps the comparison fair:
//
//   - In a round every contender hands over once; those that are compared come next to each other, and who is first is drawn.
//     What counts is the median of the ratios within rounds, with its interval: on a busy machine times wander, ratios much less.
//   - Guests are equal: same kernel, memory, devices and serial port. While one is handed over the other's vCPUs stand.
//   - The floors share no code with the product's monitor client or handoff. They use the product's writer of migration streams.
//   - Figures of a guest that lost a beat or a page of its memory are no figures: the run fails.
//
// It needs root, the QEMUs and the kernel of package env, and the go tool for the guest. Every process that it starts has ended
// when Run returns, whatever Run returns, and the pool of huge pages is as it was.
//
// It may be imported by cmd; it must not import testing, nor flip and daemon: the product is measured from outside.
package bench
