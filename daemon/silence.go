package daemon

import (
	"context"
	"time"

	"qlive/flip"
)

// longestSilence is how long a silent QEMU is left alone at the most before it is called again.
const longestSilence = 10 * time.Second

// keepListening looks again at the two QEMUs of a handoff that failed only because one of them did not answer, until it does, or somebody else has
// decided.
func (m *machine) keepListening() {
	for wait := callAgain; ; wait = min(2*wait, longestSilence) {
		select {
		case <-m.settled:
			return
		case <-m.released:
			return
		case <-time.After(wait):
		}
		leave, err := m.d.enter("look after " + m.spec.Name)
		if err != nil {
			return
		}
		done := m.listen(m.d.running)
		leave()
		if done {
			return
		}
	}
}

// listen takes a handoff up again that has failed out of silence, and tells whether there is nothing left to listen for.
func (m *machine) listen(ctx context.Context) bool {
	m.resolving.Lock()
	a, f, err := m.lastFailed()
	silent := err == nil && a.last().Silent
	answered := silent
	for i := 0; answered && i < len(f.alive); i++ {
		answered = m.call(ctx, f.alive[i], answerSoon) == nil
	}
	m.resolving.Unlock()
	return !silent || answered && m.afterSilence(ctx)
}

// afterSilence takes up again a handoff that failed only because a QEMU did not answer that does so now. It is false if there is none.
func (m *machine) afterSilence(ctx context.Context) bool {
	m.resolving.Lock()
	defer m.resolving.Unlock()
	a, f, err := m.lastFailed()
	if err != nil || !a.last().Silent {
		return false
	}
	out := flip.Recover(ctx, m.recovery(a, m.lastMigration(), f))
	if f.has(out.Keeper) == nil {
		return false
	}
	m.putInPlace(ctx, out, f)
	return true
}
