package relay

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"qlive/vmstate/stream"
)

const (
	// chunk is how much is read at once, and so behind how much a page may have to wait that the target has asked for.
	chunk = 128 << 10
	// loadLimit bounds how long the end of the stream waits for a target that loads its devices. One that takes longer gets all pages first.
	loadLimit = 5 * time.Second
)

// Result says what a relay has done.
type Result struct {
	stream.SieveStats
	Aside string // why nothing was kept back any more; empty if that is not so
}

func (r Result) String() string {
	s := fmt.Sprintf("%d pages of zeroes came, %d were kept back, of which %d were given out later", r.Zeroes, r.Kept, r.Given)
	if r.Aside != "" {
		s += "; from some time on none was kept back: " + r.Aside
	}
	return s
}

// channel is a relay at work.
type channel struct {
	source, target *net.UnixConn
	begin          <-chan struct{}
	tasks          sync.WaitGroup
	heard          chan struct{} // the target has said something
	gone           chan struct{} // closed when the target has hung up

	mu    sync.Mutex
	sieve stream.Sieve
}

// Run passes the stream from source to target, and what the target says back. Pages of zeroes are kept back from when begin is closed. It returns when
// both have hung up.
func Run(source, target *net.UnixConn, begin <-chan struct{}) Result {
	c := &channel{source: source, target: target, begin: begin, heard: make(chan struct{}, 1), gone: make(chan struct{})}
	c.tasks.Go(c.back)
	c.forth()
	c.tasks.Wait()
	return Result{c.sieve.Stats(), c.sieve.Aside()}
}

// forth passes the stream, until one of the two has hung up and all that can be is written.
func (c *channel) forth() {
	defer hangUp(c.source)
	defer hangUp(c.target) // what it has not read yet is still there for it
	rest, ok := c.lead()
	if !ok {
		return
	}
	full, free, done := make(chan []byte), make(chan []byte, 2), make(chan struct{})
	for range cap(free) {
		free <- make([]byte, chunk)
	}
	c.tasks.Go(func() { c.read(full, free, done) })
	defer close(done)
	c.follow(rest, full, free)
}

// lead passes what comes before the guest runs in the target, by one goroutine, so that in the pause each piece waits for one thread only to be woken. rest is
// a header that is not all there; ok is false if that was all.
func (c *channel) lead() (rest []byte, ok bool) {
	b := make([]byte, chunk)
	for !c.ask((*stream.Sieve).Running) {
		n, err := c.source.Read(b)
		if err != nil {
			_, _ = c.target.Write(rest) // a stream that was cut off
			return nil, false
		}
		rest = append(rest, b[:n]...)
		if n, err = c.pass(rest); err != nil {
			return nil, false
		}
		rest = append([]byte(nil), rest[n:]...)
	}
	return rest, true
}

// read reads the source, ahead of what is written.
func (c *channel) read(full chan<- []byte, free <-chan []byte, done <-chan struct{}) {
	defer close(full)
	for {
		var b []byte
		select {
		case b = <-free:
		case <-done:
			return
		}
		n, err := c.source.Read(b)
		if err != nil {
			return
		}
		select {
		case full <- b[:n]:
		case <-done:
			return
		}
	}
}

// follow passes the pages.
func (c *channel) follow(rest []byte, full <-chan []byte, free chan<- []byte) {
	var late <-chan time.Time
	for full != nil || c.waits() {
		var fresh []byte
		ok := true
		select {
		case fresh, ok = <-full:
		case <-c.heard:
		case <-late:
			c.give("the target has not loaded its devices in time")
		case <-c.gone:
			return
		}
		if !ok {
			full = nil
		}
		b := fresh
		if len(rest) > 0 {
			b = append(rest, fresh...)
		}
		n, err := c.pass(b)
		if err != nil {
			return
		}
		rest = append([]byte(nil), b[n:]...)
		if fresh != nil {
			free <- fresh[:chunk]
		}
		if late == nil && c.waits() {
			late = time.After(loadLimit)
		}
	}
	_, _ = c.target.Write(rest) // a stream that was cut off
}

// pass sends on what the sieve lets pass of b, and what it owes the target, and says how much of b that was.
func (c *channel) pass(b []byte) (int, error) {
	c.mu.Lock()
	select {
	case <-c.begin:
		c.sieve.Begin()
	default:
	}
	pieces, n := c.sieve.Sift(b, nil)
	if owed := c.sieve.Owed(); len(owed) > 0 {
		pieces = append(pieces, owed)
	}
	c.mu.Unlock()
	buffers := net.Buffers(pieces)
	_, err := buffers.WriteTo(c.target)
	return n, err
}

// give makes all that is kept back owed.
func (c *channel) give(why string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sieve.GiveAll(why)
}

func (c *channel) ask(what func(*stream.Sieve) bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return what(&c.sieve)
}

func (c *channel) waits() bool { return c.ask((*stream.Sieve).Waits) }

// back passes to the source what the target says, and listens.
func (c *channel) back() {
	defer close(c.gone)
	defer hangUp(c.source)
	defer hangUp(c.target)
	path := stream.NewReturnPath(io.TeeReader(c.target, c.source))
	for {
		m, err := path.Next()
		var unknown *stream.UnknownMessageError
		if err == io.EOF {
			return
		}
		if err != nil && !errors.As(err, &unknown) {
			break
		}
		c.mu.Lock()
		c.sieve.Heard(m)
		c.mu.Unlock()
		c.tell()
	}
	// Nobody knows any more what it asks for; or the source has hung up, and what that had sent is still passed on.
	c.give("what the target says is not understood")
	c.tell()
	if _, err := io.Copy(c.source, c.target); err != nil {
		_, _ = io.Copy(io.Discard, c.target) // until it hangs up, for whatever reason
	}
}

// tell wakes who passes pages.
func (c *channel) tell() {
	select {
	case c.heard <- struct{}{}:
	default: // it has yet to look
	}
}

// hangUp ends a connection for both sides, and for those who wait in it.
func hangUp(conn *net.UnixConn) {
	_ = conn.CloseRead()
	_ = conn.CloseWrite()
}
