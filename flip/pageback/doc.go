// Package pageback brings pages back to a QEMU that has sent them to a target which is dead.
//
// A source in postcopy frees what it has sent, and QEMU knows no way back from there: its monitor refuses to cancel, and a channel that breaks
// leaves the migration paused for ever, with up to 32 pages freed and never sent (qemu_fflush releases what it could not write, too). So the channel
// must not break. Whoever holds the target's end of it takes the dead target's place instead: [Take] reads all that the source has to send, says what a
// target says, and the source's migration ends as any other. Then [Pages.Put] writes every page back to where it was. For the source it has been handed
// over and let run again, which QEMU allows (postmigrate).
//
// What holds:
//
//   - Every page of every block is accounted for: it has come through the channel now, or the target had placed it in a file of ours before it died. One
//     that is neither is lost, and nothing is put back then.
//   - A page of zeroes is not written: where the source has freed it, it reads zeroes.
//   - There is no second copy: what is sent is freed there, and what is put back is freed here.
//
// The guest must stand in the source, and the target be dead. The package must not import the handoff itself.
package pageback
