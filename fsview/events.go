package fsview

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"sync"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"qlive/vmstate"
)

// reader is somebody who opens events. All administrators are one, since their places are their own.
type reader struct {
	admin bool
	uid   uint32 // 0 for an administrator
}

// reader is the sender of the request of ctx.
func (t *FS) reader(ctx context.Context) reader {
	who := callerOf(ctx)
	if t.role(who) == vmstate.RoleAdmin {
		return reader{admin: true}
	}
	return reader{uid: who.UID}
}

// streams are the open files events.
type streams struct {
	max     int           // of administrators, and of all others
	perUser int           // of the others
	closing chan struct{} // closed when no more events shall be read

	mu      sync.Mutex
	closed  bool
	places  map[reader]int // taken, by handles or by somebody about to make one
	handles map[*streamHandle]struct{}
}

func newStreams(max, perUser int) *streams {
	return &streams{max: max, perUser: perUser, closing: make(chan struct{}), places: make(map[reader]int), handles: make(map[*streamHandle]struct{})}
}

// full tells whether there is no place for who. It needs s.mu.
func (s *streams) full(who reader) bool {
	if who.admin {
		return s.places[who] >= s.max
	}
	others := 0
	for r, n := range s.places {
		if !r.admin {
			others += n
		}
	}
	return others >= s.max || s.places[who] >= s.perUser
}

// subscribe opens source's events for who.
func (s *streams) subscribe(source Source, who reader) (*streamHandle, syscall.Errno) {
	s.mu.Lock()
	switch {
	case s.closed:
		s.mu.Unlock()
		return nil, syscall.ESHUTDOWN
	case s.full(who):
		s.mu.Unlock()
		return nil, syscall.EMFILE
	}
	s.places[who]++
	s.mu.Unlock()

	h := &streamHandle{owner: s, who: who, sub: source.Subscribe(0), turn: make(chan struct{}, 1)}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.handles[h] = struct{}{}
	return h, 0
}

// drop ends h's subscription, once.
func (s *streams) drop(h *streamHandle) {
	s.mu.Lock()
	_, found := s.handles[h]
	if found {
		delete(s.handles, h)
		if s.places[h.who]--; s.places[h.who] == 0 {
			delete(s.places, h.who)
		}
	}
	s.mu.Unlock()
	if found {
		h.sub.Close()
	}
}

// stop makes every reader find the end of its file, and refuses new ones.
func (s *streams) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.closed = true
		close(s.closing)
	}
}

// dropAll ends the subscriptions of handles that the kernel will not release any more.
func (s *streams) dropAll() {
	s.mu.Lock()
	left := slices.Collect(maps.Keys(s.handles))
	s.mu.Unlock()
	for _, h := range left {
		s.drop(h)
	}
}

// streamHandle is an open file events.
type streamHandle struct {
	owner *streams
	who   reader
	sub   vmstate.Subscription

	turn chan struct{} // held by the one reader who may use what follows
	rest []byte        // of a line that did not fit
}

func (h *streamHandle) opened() any { return stream{} }

// Read waits for an event, and gives all that are there as far as they fit. The end of the file comes
// when the source closes the subscription, or the tree is unmounted.
func (h *streamHandle) Read(ctx context.Context, dest []byte, _ int64) (fuse.ReadResult, syscall.Errno) {
	select {
	case h.turn <- struct{}{}:
		defer func() { <-h.turn }()
	case <-ctx.Done():
		return nil, syscall.EINTR
	}
	if len(h.rest) == 0 {
		select {
		case event, ok := <-h.sub.Events:
			if !ok {
				return fuse.ReadResultData(nil), 0
			}
			h.add(event)
		case <-ctx.Done():
			return nil, syscall.EINTR
		case <-h.owner.closing:
			return fuse.ReadResultData(nil), 0
		}
	}
	for more := true; more && len(h.rest) < len(dest); {
		select {
		case event, ok := <-h.sub.Events:
			if more = ok; ok {
				h.add(event)
			}
		default:
			more = false
		}
	}
	n := copy(dest, h.rest)
	if h.rest = h.rest[n:]; len(h.rest) == 0 {
		h.rest = nil
	}
	return fuse.ReadResultData(dest[:n]), 0
}

func (h *streamHandle) add(event vmstate.Event) {
	data, err := json.Marshal(event)
	if err != nil {
		// See jsonText: the place in the stream is kept, and says what is missing.
		event.Data = vmstate.ProblemOf(err)
		data, _ = json.Marshal(event)
	}
	h.rest = append(append(h.rest, data...), '\n')
}

// Release gives the place in the stream back.
func (h *streamHandle) Release(context.Context) syscall.Errno {
	h.owner.drop(h)
	return 0
}
