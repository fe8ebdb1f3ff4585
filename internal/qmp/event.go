package qmp

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"
)

// Event is something that QEMU tells unasked.
type Event struct {
	Name     string
	Data     json.RawMessage // nil for none
	QEMUTime time.Time       // when it happened by QEMU's wall clock, to the microsecond; zero if QEMU did not know
	Received time.Time       // when it was read, with the monotonic clock
}

// Names of events that the code waits for.
const (
	EventStop          = "STOP"
	EventResume        = "RESUME"
	EventReset         = "RESET"
	EventShutdown      = "SHUTDOWN"
	EventPowerdown     = "POWERDOWN"
	EventSuspend       = "SUSPEND"
	EventWakeup        = "WAKEUP"
	EventGuestPanicked = "GUEST_PANICKED"
	EventMigration     = "MIGRATION" // only with the migration capability "events"
	EventMigrationPass = "MIGRATION_PASS"
	EventBlockIOError  = "BLOCK_IO_ERROR"
	EventDeviceDeleted = "DEVICE_DELETED"
)

// MigrationStatus is the state that a MIGRATION event tells, "" for any other event.
func (e Event) MigrationStatus() MigrationStatus {
	if e.Name != EventMigration {
		return ""
	}
	var data struct {
		Status MigrationStatus `json:"status"`
	}
	if json.Unmarshal(e.Data, &data) != nil {
		return ""
	}
	return data.Status
}

// Named matches events of any of the names.
func Named(names ...string) func(Event) bool {
	return func(e Event) bool { return slices.Contains(names, e.Name) }
}

// MigrationIn matches MIGRATION events that tell any of the states.
func MigrationIn(states ...MigrationStatus) func(Event) bool {
	return func(e Event) bool { return e.Name == EventMigration && slices.Contains(states, e.MigrationStatus()) }
}

// maxQueue is how many events a subscription holds for a subscriber that does not read.
const maxQueue = 4096

// Subscription receives events from the moment it was made until it is closed. Subscribe before sending the command
// whose events matter. It is for one reader.
type Subscription struct {
	client *Client
	names  []string // empty for all

	mu     sync.Mutex
	queue  []Event
	reason error         // why nothing more will come; nil while open
	wake   chan struct{} // holds a token after any change
}

// Subscribe asks for the events of the given names, or for all. On a connection that has ended, the subscription tells
// so at the first Next.
func (c *Client) Subscribe(names ...string) *Subscription {
	s := &Subscription{client: c, names: slices.Clone(names), wake: make(chan struct{}, 1)}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.closedError(); err != nil {
		s.reason = err
		return s
	}
	c.subs = append(c.subs, s)
	return s
}

// offer queues an event, without ever waiting. It is false once the subscription wants no more.
func (s *Subscription) offer(e Event) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reason != nil {
		return false
	}
	if len(s.names) > 0 && !slices.Contains(s.names, e.Name) {
		return true
	}
	if len(s.queue) == maxQueue {
		s.reason = fmt.Errorf("%w: %d events wait, and %s came", ErrSlow, maxQueue, e.Name)
		s.signal()
		return false
	}
	s.queue = append(s.queue, e)
	s.signal()
	return true
}

func (s *Subscription) end(reason error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reason == nil {
		s.reason = reason
	}
	s.signal()
}

// signal needs s.mu.
func (s *Subscription) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Next waits for an event. Events that came before the subscription or the connection ended are still given out; then
// the error tells why it ended: ErrSlow, or ErrClosed. If ctx ends first the error wraps its cause, and nothing is lost.
func (s *Subscription) Next(ctx context.Context) (Event, error) {
	for {
		e, ok, err := s.take()
		if ok {
			return e, nil
		}
		if err != nil {
			return Event{}, fmt.Errorf("cannot wait for events: %w", err)
		}
		select {
		case <-s.wake:
		case <-ctx.Done():
			return Event{}, fmt.Errorf("cannot wait for events any longer: %w", ended(ctx))
		}
	}
}

func (s *Subscription) take() (Event, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.queue) == 0 {
		return Event{}, false, s.reason
	}
	e := s.queue[0]
	s.queue = s.queue[1:]
	return e, true, nil
}

// Until waits for the first event that match accepts, and drops those before it. Errors are those of Next.
func (s *Subscription) Until(ctx context.Context, match func(Event) bool) (Event, error) {
	for {
		e, err := s.Next(ctx)
		if err != nil || match(e) {
			return e, err
		}
	}
}

// Close ends the subscription. What is still queued is dropped.
func (s *Subscription) Close() {
	c := s.client
	c.mu.Lock()
	defer c.mu.Unlock()
	c.subs = slices.DeleteFunc(c.subs, func(other *Subscription) bool { return other == s })
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queue = nil
	if s.reason == nil {
		s.reason = errClosedHere
	}
	s.signal()
}
