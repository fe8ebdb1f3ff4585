// Package move moves the RAM of a guest that stands from one set of files into another, chunk by chunk, with the old file freed behind.
//
// A [Mover] takes the chunks of all regions in order with a few workers. Each chunk is copied into the other file, then the [Ledger] says that it
// is there, then it is freed where it was: never more than the chunks in flight are held twice. The ledger, one byte a chunk in a file on
// tmpfs, is what outlives the daemon: whatever was cut short, where it says a chunk is, there all of it is. So a move that was cut short at
// any point can be finished or taken back by whoever has both sets and the ledger, as often as need be.
//
// What holds:
//
//   - Nothing may write to either set meanwhile: the guest stands, its devices are saved, and a target that has begun to load is dead before
//     anything is moved back.
//   - Holes stay holes. Where the kernel does not tell them (huge pages), pieces of zeros are left out instead, so that the guest may end up with
//     more holes than it had, and never with fewer, but for what a larger page takes in.
//   - Huge pages that are freed for ordinary ones stay promised to the file that they were in, as far as the kernel lets: nobody else can take what moving back
//     needs. Freed for huge pages of the same pool they are promised to the new file instead, chunk by chunk ([memory.Follows]): the pool need never have more than the RAM and
//     the chunks in flight, whichever way it goes and however often it is cut short.
//   - Guest memory is only ever touched by system calls and by a copy that survives a fault: a page that is not to be had is an error, not the end of
//     the process.
//
// The package must not import anything of qlive but vmstate, flip/memory and internal/atomicfile: it knows neither QEMU nor handoffs.
package move
