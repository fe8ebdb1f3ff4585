package daemon

import (
	"sync"
	"time"

	"qlive/vmstate"
)

const (
	keptEvents   = 1024 // events that a listener who comes back can still get
	listenerRoom = 256  // events that a listener may be behind before it is cut off
)

// hub hands events to listeners. It never waits for one: a listener that falls behind gets an EventLost and is cut off,
// rather than missing events without knowing.
type hub struct {
	mu        sync.Mutex
	seq       uint64
	numbers   numbers         // where seq outlives the daemon
	kept      []vmstate.Event // the newest, in order, at most keptEvents
	listeners map[*listener]struct{}
	closed    bool
}

type listener struct {
	events chan vmstate.Event
}

func newHub() *hub { return &hub{listeners: make(map[*listener]struct{})} }

// emit numbers the event and hands it out. The caller holds the registry's lock, so that events and snapshots agree.
func (h *hub) emit(e vmstate.Event) uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.seq++
	h.numbers.keep(h.seq)
	e.Seq, e.At = h.seq, time.Now().UTC()
	h.kept = append(h.kept, e)
	if len(h.kept) > 2*keptEvents { // in large steps, so that emit copies seldom
		h.kept = append([]vmstate.Event(nil), h.kept[len(h.kept)-keptEvents:]...)
	}
	for l := range h.listeners {
		h.sendLocked(l, e)
	}
	return h.seq
}

// sendLocked keeps one place free for the word that the listener is cut off.
func (h *hub) sendLocked(l *listener, e vmstate.Event) {
	if len(l.events) < cap(l.events)-1 {
		l.events <- e
		return
	}
	l.events <- vmstate.Event{Seq: h.seq, At: e.At, Type: vmstate.EventLost}
	h.dropLocked(l)
}

func (h *hub) dropLocked(l *listener) {
	if _, ok := h.listeners[l]; ok {
		delete(h.listeners, l)
		close(l.events)
	}
}

// subscribe starts after event number after. If those that followed are no longer kept, or after is 0, the first event is an
// EventReset with the state that state returns; it is called with the hub's lock held.
func (h *hub) subscribe(after uint64, state func() vmstate.State) vmstate.Subscription {
	h.mu.Lock()
	defer h.mu.Unlock()
	missed, ok := h.sinceLocked(after)
	l := &listener{events: make(chan vmstate.Event, len(missed)+1+listenerRoom)}
	if !ok {
		l.events <- vmstate.Event{Seq: h.seq, At: time.Now().UTC(), Type: vmstate.EventReset, Data: state()}
	}
	for _, e := range missed {
		l.events <- e
	}
	if h.closed {
		close(l.events)
	} else {
		h.listeners[l] = struct{}{}
	}
	return vmstate.Subscription{Events: l.events, Close: func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.dropLocked(l)
	}}
}

func (h *hub) sinceLocked(after uint64) ([]vmstate.Event, bool) {
	if after == 0 || after > h.seq {
		return nil, false
	}
	if after == h.seq {
		return nil, true
	}
	for i, e := range h.kept {
		if e.Seq == after+1 {
			return h.kept[i:], true
		}
	}
	return nil, false
}

// close ends every listener's stream. Later subscribers get what is kept and then the end.
func (h *hub) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	for l := range h.listeners {
		h.dropLocked(l)
	}
}

// seqAfter is the number that the next event will have.
func (h *hub) seqAfter() uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.seq + 1
}
