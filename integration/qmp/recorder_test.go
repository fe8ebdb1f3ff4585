package qmp_test

import (
	"sync"

	"qlive/internal/qmp"
)

// recorder is an Observer that remembers replies.
type recorder struct {
	mu      sync.Mutex
	replies []qmp.Reply
}

func (r *recorder) Sent(qmp.Query)  {}
func (r *recorder) Event(qmp.Event) {}

func (r *recorder) Replied(reply qmp.Reply) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.replies = append(r.replies, reply)
}

// of gives the replies to a command.
func (r *recorder) of(command string) []qmp.Reply {
	r.mu.Lock()
	defer r.mu.Unlock()
	var found []qmp.Reply
	for _, reply := range r.replies {
		if reply.Command == command {
			found = append(found, reply)
		}
	}
	return found
}
