// Package journal keeps what must be known after the writer has died: records, one JSON line each, only ever
// appended to.
//
// It is made for a file on tmpfs that outlives the process but not the host: a record is one write(2), never
// synced to a disk, and costs microseconds, so that one can be written while a guest stands still.
//
// What holds:
//
//   - A record that [Journal.Append] has accepted is found by [Read], whole, however the writer ends.
//   - A record is there or not: one cut short by the writer's death is told apart and left out, and
//     the next [Open] removes it.
//   - Nothing else is forgiven. A line that was changed, lost, doubled or moved makes the file unreadable, and
//     the error names the file, the line and the offset: who may run a guest is not to be guessed.
//   - One writer at a time, by flock.
//
// What a record says is its owner's business. The format is described in docs/journal.md.
//
// The package must not import anything of qlive but vmstate and internal/room.
package journal
