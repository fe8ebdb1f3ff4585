package daemon

import (
	"sync/atomic"
	"time"
)

// longestLull bounds how long readers of the tree wait while a guest stands, whatever its QEMUs do. It is longer than nearly every pause of a
// handoff whose guest's RAM stays where it is, and too short for who reads files to mind.
const longestLull = 10 * time.Millisecond

// lull is a time in which a guest is about to stop, or stands, and readers of the tree wait: on a host with few processors their requests would
// take them from the QEMUs, which need them for a few milliseconds. It is for the processors alone: nothing that is right depends on it.
type lull struct {
	over atomic.Pointer[chan struct{}] // closed at its end; nil while there is none
}

// begin begins a lull, which ends with end, and by itself after longestLull. One that there is already goes on as it is: with handoffs side by
// side readers wait no longer than in one.
func (l *lull) begin() {
	over := make(chan struct{})
	if l.over.CompareAndSwap(nil, &over) {
		time.AfterFunc(longestLull, func() {
			if l.over.CompareAndSwap(&over, nil) {
				close(over)
			}
		})
	}
}

// end ends the lull, if there is one.
func (l *lull) end() {
	if over := l.over.Swap(nil); over != nil {
		close(*over)
	}
}

// Lull is nil, or what is closed when readers of the tree may go on.
func (d *Daemon) Lull() <-chan struct{} {
	if over := d.lull.over.Load(); over != nil {
		return *over
	}
	return nil
}
