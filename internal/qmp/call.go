package qmp

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"
)

// Command is a command to be sent. Args is anything that marshals to a JSON object, nil for none.
type Command struct {
	Name string
	Args any
}

// Call is a command that has been sent.
type Call struct {
	client *Client
	query  Query
	file   bool // a descriptor went with it
	done   chan struct{}

	// Set before done is closed.
	received time.Time
	result   json.RawMessage
	err      error
}

// Do executes a command and decodes what it returns into out, unless out is nil. The error is *Error if QEMU refused
// it, wraps ErrClosed if the connection ended, and context.DeadlineExceeded if time ran out: the command may then still
// be executed.
func (c *Client) Do(ctx context.Context, command string, args, out any) error {
	call, err := c.Start(ctx, command, args)
	if err != nil {
		return err
	}
	return call.Wait(ctx, out)
}

// DoWithFile is Do with one descriptor sent along, for getfd and add-fd. The descriptor is duplicated by the kernel and
// stays the caller's. While QEMU has not answered, further descriptors wait.
func (c *Client) DoWithFile(ctx context.Context, command string, args, out any, fd int) error {
	calls, err := c.start(ctx, fd, Command{command, args})
	if err != nil {
		return err
	}
	return calls[0].Wait(ctx, out)
}

// Start sends a command without waiting for its reply.
func (c *Client) Start(ctx context.Context, command string, args any) (*Call, error) {
	calls, err := c.start(ctx, noFile, Command{command, args})
	if err != nil {
		return nil, err
	}
	return calls[0], nil
}

// StartAll sends several commands in one write. QEMU executes them in order, and goes on after one that fails.
func (c *Client) StartAll(ctx context.Context, commands ...Command) ([]*Call, error) {
	return c.start(ctx, noFile, commands...)
}

// Wait waits for the reply and decodes what it returns into out, unless out is nil. It may be called again, also after
// it has timed out. Errors are those of Do.
func (call *Call) Wait(ctx context.Context, out any) error {
	select { // an answer that is there counts, however late it is asked for
	case <-call.done:
		return call.outcome(out)
	default:
	}
	ctx, cancel := bounded(ctx, call.query.Command, call.query.Sent)
	defer cancel()
	select {
	case <-call.done:
		return call.outcome(out)
	case <-ctx.Done():
		return waitError(ctx, call.query.Command, call.query.Sent)
	}
}

func (call *Call) outcome(out any) error {
	if call.err != nil {
		return commandError(call.query.Command, call.err)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(call.result, out); err != nil {
		return fmt.Errorf("cannot understand the reply to %s: %w", call.query.Command, err)
	}
	return nil
}

// Done is closed when the reply has come, or the connection has ended.
func (call *Call) Done() <-chan struct{} { return call.done }

// Sent is when the command was handed to the socket: just before the write.
func (call *Call) Sent() time.Time { return call.query.Sent }

// Received is when the reply came, or the connection ended; zero as long as neither has.
func (call *Call) Received() time.Time {
	select {
	case <-call.done:
		return call.received
	default:
		return time.Time{}
	}
}

// finish is called once, when the call is no longer pending.
func (call *Call) finish(at time.Time, result json.RawMessage, err error) {
	call.received, call.result, call.err = at, result, err
	for _, o := range call.client.observers {
		o.Replied(Reply{Query: call.query, Received: at, Return: result, Err: err})
	}
	if call.file {
		call.client.fileTurn <- struct{}{}
	}
	close(call.done)
}

// sorted are calls in the order in which they were sent.
func sorted(calls map[uint64]*Call) []*Call {
	list := make([]*Call, 0, len(calls))
	for _, call := range calls {
		list = append(list, call)
	}
	slices.SortFunc(list, func(a, b *Call) int { return cmp.Compare(a.query.ID, b.query.ID) })
	return list
}
