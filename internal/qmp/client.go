package qmp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"
)

// Client is a monitor connection. Its methods may be called from any goroutine; commands reach QEMU one after the
// other, in the order in which they were sent.
type Client struct {
	conn      *net.UnixConn
	observers []Observer
	greeting  greeting // set before Dial returns

	sendTurn chan struct{} // holds a token; who has taken it may write
	unsent   []byte        // with the token: the rest of a command whose sender gave up in the middle of it
	fileTurn chan struct{} // holds a token; taken while a descriptor is on its way

	mu      sync.Mutex
	lastID  uint64
	pending map[uint64]*Call // sent and not answered, waited for or not
	subs    []*Subscription
	cause   error // why the connection has ended; nil while it is up

	greeted chan struct{} // closed when the greeting has come
	done    chan struct{} // closed when the reader has ended
}

// Options of a connection. The zero value will do.
type Options struct {
	// Exited, if set, is closed when the process is known to have ended: connecting stops then, with ErrExited.
	Exited <-chan struct{}

	// Observers see every command, reply and event of the connection, in this order.
	Observers []Observer
}

// New takes over conn, waits for QEMU's greeting and negotiates. If it fails conn is closed.
func New(ctx context.Context, conn *net.UnixConn, opts Options) (*Client, error) {
	c := &Client{
		conn: conn, observers: slices.Clone(opts.Observers),
		sendTurn: make(chan struct{}, 1), fileTurn: make(chan struct{}, 1),
		pending: make(map[uint64]*Call),
		greeted: make(chan struct{}), done: make(chan struct{}),
	}
	c.sendTurn <- struct{}{}
	c.fileTurn <- struct{}{}
	go c.read()
	if err := c.handshake(ctx, opts.Exited); err != nil {
		_ = c.Close() // the first error is the one to tell
		return nil, err
	}
	return c, nil
}

// handshake ends with the monitor in command mode. With the capability oob, where QEMU offers it, QEMU reads the next command while it executes one
// (monitor/qmp.c, handle_qmp_command); nothing is ever sent out of band.
func (c *Client) handshake(ctx context.Context, exited <-chan struct{}) error {
	select {
	case <-c.greeted:
	case <-c.done:
		return fmt.Errorf("cannot greet the monitor: %w", c.Err())
	case <-exited:
		return fmt.Errorf("cannot greet the monitor: %w", ErrExited)
	case <-ctx.Done():
		return fmt.Errorf("cannot greet the monitor: QEMU says nothing (a monitor serves one client at a time): %w",
			ended(ctx))
	}
	var args any
	if slices.Contains(c.greeting.Capabilities, "oob") {
		args = map[string][]string{"enable": {"oob"}}
	}
	return c.Do(ctx, "qmp_capabilities", args, nil)
}

// Version is QEMU's, from its greeting.
func (c *Client) Version() Version { return c.greeting.Version.version() }

// Done is closed when the connection has ended.
func (c *Client) Done() <-chan struct{} { return c.done }

// Err is nil while the connection is up, and afterwards ErrClosed with the cause.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closedError()
}

// closedError needs c.mu.
func (c *Client) closedError() error {
	if c.cause == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", ErrClosed, c.cause)
}

// Close ends the connection and waits for the reader. QEMU stays as it is. Further calls do nothing.
func (c *Client) Close() error {
	err := c.conn.Close()
	<-c.done
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// read is the reader goroutine: it ends with the connection.
func (c *Client) read() {
	defer close(c.done)
	d := newDecoder(c.conn)
	for {
		m, err := d.next()
		if err != nil {
			c.end(endOf(err))
			return
		}
		c.dispatch(m)
	}
}

func (c *Client) dispatch(m *message) {
	switch {
	case m.Event != "":
		c.publish(Event{Name: m.Event, Data: m.Data, QEMUTime: m.Timestamp.time(), Received: m.received})
	case m.isReply():
		c.answer(m)
	default:
		select {
		case <-c.greeted: // QEMU greets once; a second greeting means nothing
		default:
			c.greeting = *m.QMP
			close(c.greeted)
		}
	}
}

// answer gives a reply to the call that it belongs to.
func (c *Client) answer(m *message) {
	c.mu.Lock()
	id, ok := m.id()
	if !ok && m.Error != nil {
		id = c.oldest() // QEMU could not parse a command: it answers in order, but knows no id
	}
	call := c.pending[id]
	delete(c.pending, id)
	c.mu.Unlock()

	var err error
	if m.Error != nil {
		err = m.Error
	}
	if call == nil { // nobody asked
		call = &Call{client: c, query: Query{ID: id}, done: make(chan struct{})}
	}
	call.finish(m.received, m.Return, err)
}

// oldest is the id of the call that QEMU answers next, 0 for none. It needs c.mu.
func (c *Client) oldest() uint64 {
	var oldest uint64
	for id := range c.pending {
		if oldest == 0 || id < oldest {
			oldest = id
		}
	}
	return oldest
}

func (c *Client) publish(e Event) {
	for _, o := range c.observers {
		o.Event(e)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.subs = slices.DeleteFunc(c.subs, func(s *Subscription) bool { return !s.offer(e) })
}

// end fails whatever waits, once the connection is over.
func (c *Client) end(cause error) {
	now := time.Now()
	_ = c.conn.Close() // it has ended: only the descriptor is given back
	c.mu.Lock()
	c.cause = cause
	closed := c.closedError()
	calls, subs := c.pending, c.subs
	c.pending, c.subs = nil, nil
	c.mu.Unlock()
	for _, call := range sorted(calls) {
		call.finish(now, nil, closed)
	}
	for _, s := range subs {
		s.end(closed)
	}
}
