package failpoint

import (
	"context"
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Variable is the name of the environment variable that arms failpoints.
const Variable = "QLIVE_FAILPOINTS"

// Error is the failure that a point was armed with.
type Error struct {
	Name string // of the point
	Text string
}

// Error names the point.
func (e *Error) Error() string { return fmt.Sprintf("failpoint %s: %s", e.Name, e.Text) }

// Set holds what the points do, and counts who comes by. A nil *Set does nothing. Its methods may be called from any
// goroutine.
type Set struct {
	mu       sync.Mutex
	points   map[string][]term // what is left to do
	hits     map[string]int
	changed  chan struct{} // closed and replaced when a point is reached
	releases map[string]chan struct{}
}

// New makes a Set that does what the specification says. An empty one only counts.
func New(spec string) (*Set, error) {
	points, err := parse(spec)
	if err != nil {
		return nil, err
	}
	return &Set{
		points: points, hits: make(map[string]int),
		changed: make(chan struct{}), releases: make(map[string]chan struct{}),
	}, nil
}

// FromEnvironment makes a Set of what the environment says: nil if it says nothing.
func FromEnvironment() (*Set, error) {
	spec := os.Getenv(Variable)
	if spec == "" {
		return nil, nil
	}
	s, err := New(spec)
	if err != nil {
		return nil, fmt.Errorf("cannot use %s: %w", Variable, err)
	}
	return s, nil
}

// Hit is what stands at a point. It does what the point is armed with, and returns nil if that is nothing.
func (s *Set) Hit(ctx context.Context, name string) error {
	if s == nil {
		return nil
	}
	t, release := s.next(name)
	switch t.do {
	case failing:
		return &Error{Name: name, Text: t.text}
	case delay:
		return wait(ctx, name, time.After(t.wait))
	case block:
		return wait(ctx, name, release)
	case callingOut:
		return t.call()
	case panicking:
		panic("failpoint " + name)
	case exit:
		os.Exit(t.code)
	case stop:
		return stopHere()
	case kill:
		if err := signalSelf(syscall.SIGKILL); err != nil {
			return err
		}
		select {} // not a step further, however late the signal comes
	}
	return nil
}

// next counts the hit and takes what is to be done now.
func (s *Set) next(name string) (term, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hits[name]++
	close(s.changed)
	s.changed = make(chan struct{})

	terms := s.points[name]
	if len(terms) == 0 {
		return term{do: off}, nil
	}
	t := terms[0]
	switch t.count {
	case forever:
	case 1:
		s.points[name] = terms[1:]
	default:
		terms[0].count--
	}
	return t, s.release(name)
}

// release is the channel that Release closes. It needs s.mu.
func (s *Set) release(name string) chan struct{} {
	if s.releases[name] == nil {
		s.releases[name] = make(chan struct{})
	}
	return s.releases[name]
}

func wait[T any](ctx context.Context, name string, until <-chan T) error {
	select {
	case <-until:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("failpoint %s: %w", name, context.Cause(ctx))
	}
}

// stopHere stops the process. The signal goes to the thread that stands here: one to the process may be taken by another thread, and this one
// would go on for a moment.
func stopHere() error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Tgkill(os.Getpid(), unix.Gettid(), unix.SIGSTOP); err != nil {
		return fmt.Errorf("cannot stop this process: %w", err)
	}
	return nil
}

func signalSelf(signal syscall.Signal) error {
	if err := syscall.Kill(os.Getpid(), signal); err != nil {
		return fmt.Errorf("cannot send %v to this process: %w", signal, err)
	}
	return nil
}

// Arm makes a point do what the terms say from now on, such as "1*error(no space)".
func (s *Set) Arm(name, terms string) error {
	parsed, err := parseTerms(terms)
	if err != nil {
		return fmt.Errorf("cannot arm failpoint %s: %w", name, err)
	}
	s.set(name, parsed)
	return nil
}

// Func makes a point call f from now on, in the goroutine that reaches it, and return what f returns. A nil f turns the
// point off.
func (s *Set) Func(name string, f func() error) {
	if f == nil {
		s.set(name, nil)
		return
	}
	s.set(name, []term{{count: forever, do: callingOut, call: f}})
}

func (s *Set) set(name string, terms []term) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.points[name] = terms
}

// Release lets go of everybody who is blocked at the point. Who comes later is blocked again, if the point still says so.
func (s *Set) Release(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.release(name))
	delete(s.releases, name)
}

// Hits is how often the point has been reached.
func (s *Set) Hits(name string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.hits[name]
}

// Reached lists every point that has been reached, sorted.
func (s *Set) Reached() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.hits))
}

// Await waits until the point has been reached n times in all.
func (s *Set) Await(ctx context.Context, name string, n int) error {
	for {
		s.mu.Lock()
		hits, changed := s.hits[name], s.changed
		s.mu.Unlock()
		if hits >= n {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("cannot see failpoint %s reached %d times, only %d: %w", name, n, hits, context.Cause(ctx))
		}
	}
}
