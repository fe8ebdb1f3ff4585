// Package recovery decides what becomes of a handoff whose daemon has gone: a pure function from what is known to the next thing to do.
//
// [Evidence] is the last record of the journal and what is seen of the two QEMUs. [Decide] looks it up in [Table], one table that a
// person can read: the first row that fits says what to do next and why. Whoever acts does that one thing, looks again,
// and asks again, until the answer is [Nothing]. So an actor that dies between two steps needs no memory but the journal: the
// next one looks, and asks the same table.
//
//	for e := look(); ; e = look() {
//		row := recovery.Decide(e)
//		if row.Do == recovery.Nothing {
//			break
//		}
//		act(row.Do)
//	}
//
// What holds, and is shown by a walk over all evidence and by a model of both QEMUs and the daemon that runs on this very table and on
// [vmstate.Phases]:
//
//   - The source is let run only when the target is gone.
//   - The target is let run only with its intent in the journal, and never once the source may have run on.
//   - After the target may have run nothing lets the source run but a person's word.
//   - While pages follow their guest (mode postcopy) neither QEMU is ended, by anybody but a person.
//   - A QEMU that does not answer is never waited for without end, and never taken for a dead one.
//   - From all evidence an end is reached.
//
// The package imports vmstate and nothing else of qlive: no process, no monitor, no clock.
package recovery
