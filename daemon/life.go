package daemon

import (
	"sync/atomic"

	"qlive/internal/qmp"
)

// life is an observer of a QEMU that keeps whether its guest has ended by itself: how the QEMU ends then says nothing of the guest.
type life struct{ over atomic.Bool }

func (l *life) Sent(qmp.Query)    {}
func (l *life) Replied(qmp.Reply) {}

func (l *life) Event(e qmp.Event) {
	switch e.Name {
	case qmp.EventShutdown:
		l.over.Store(true)
	case qmp.EventReset, qmp.EventResume:
		l.over.Store(false)
	}
}

// guestEnded tells whether the guest of a QEMU that is dead had ended by itself. It waits until all that the QEMU has said is read, which
// may be a little after its death is seen.
func (g *generation) guestEnded() bool {
	if g.side.Monitor != nil {
		<-g.side.Monitor.Done()
	}
	return g.life.over.Load()
}
