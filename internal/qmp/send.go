package qmp

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"syscall"
	"time"
)

// noFile says that no descriptor goes with a command.
const noFile = -1

// start sends commands in one write, with fd unless that is noFile. If it fails none of them will be executed.
func (c *Client) start(ctx context.Context, fd int, commands ...Command) ([]*Call, error) {
	calls, name, err := c.prepare(fd, commands)
	if err != nil || len(calls) == 0 {
		return nil, err
	}
	ctx, cancel := bounded(ctx, commands[0].Name, time.Now())
	defer cancel()

	registered := false
	if fd != noFile {
		if err := c.takeFileTurn(ctx, name); err != nil {
			return nil, err
		}
		defer func() {
			if !registered { // else it is given back when the call ends
				c.fileTurn <- struct{}{}
			}
		}()
	}
	if err := c.takeTurn(ctx, name); err != nil {
		return nil, err
	}
	defer func() { c.sendTurn <- struct{}{} }()
	c.number(calls)
	if err := c.register(calls); err != nil {
		return nil, commandError(name, err)
	}
	registered = true
	var buf bytes.Buffer
	for _, call := range calls {
		encode(&buf, call.query.Command, call.query.Arguments, call.query.ID)
	}
	if err := c.write(ctx, buf.Bytes(), fd); err != nil {
		err = sendError(ctx, name, err)
		c.forget(calls, err)
		return nil, err
	}
	return calls, nil
}

// prepare makes calls of commands, which have no numbers yet, and a name for all of them.
func (c *Client) prepare(fd int, commands []Command) (calls []*Call, name string, err error) {
	var names []string
	for _, command := range commands {
		args, err := marshalArgs(command.Name, command.Args)
		if err != nil {
			return nil, "", err
		}
		names = append(names, command.Name)
		calls = append(calls, &Call{client: c, file: fd != noFile, done: make(chan struct{}), query: Query{Command: command.Name, Arguments: args}})
	}
	return calls, strings.Join(names, ", "), nil
}

// takeTurn waits for the turn to send, which must be given on.
func (c *Client) takeTurn(ctx context.Context, name string) error {
	select {
	case <-c.sendTurn:
		return nil
	case <-c.done:
		return commandError(name, c.Err())
	case <-ctx.Done():
		return sendError(ctx, name, ctx.Err())
	}
}

// takeFileTurn waits until QEMU has taken the descriptor sent before: it keeps only the last one received.
func (c *Client) takeFileTurn(ctx context.Context, name string) error {
	select {
	case <-c.fileTurn:
		return nil
	case <-c.done:
		return commandError(name, c.Err())
	case <-ctx.Done():
		return fmt.Errorf("cannot send %s: QEMU has not taken an earlier descriptor: %w", name, ended(ctx))
	}
}

// number gives calls their numbers, in the order in which they are sent. It needs the turn to send.
func (c *Client) number(calls []*Call) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, call := range calls {
		c.lastID++
		call.query.ID = c.lastID
	}
}

// register makes calls pending: a reply may come before the write has returned.
func (c *Client) register(calls []*Call) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.closedError(); err != nil {
		return err
	}
	now := time.Now()
	for _, call := range calls {
		call.query.Sent = now
		c.pending[call.query.ID] = call
		for _, o := range c.observers {
			o.Sent(call.query)
		}
	}
	return nil
}

// forget undoes register for calls that were never written.
func (c *Client) forget(calls []*Call, err error) {
	for _, call := range calls {
		c.mu.Lock()
		_, pending := c.pending[call.query.ID]
		delete(c.pending, call.query.ID)
		c.mu.Unlock()
		if pending { // else the end of the connection has finished it
			call.finish(time.Now(), nil, err)
		}
	}
}

// write sends data, with fd unless that is noFile, and honours ctx even if nobody reads at the other end. It needs the
// turn to send. On error nothing of data will ever reach QEMU.
//
// A socket takes a command of usual size whole or not at all. Of a larger one a part may be gone when time runs out:
// that one counts as sent, and its rest goes out before the next command, so that QEMU can follow.
func (c *Client) write(ctx context.Context, data []byte, fd int) error {
	release, err := c.armDeadline(ctx)
	if err != nil {
		return err
	}
	defer release()

	if len(c.unsent) > 0 {
		n, err := c.conn.Write(c.unsent)
		c.unsent = c.unsent[n:]
		if err != nil {
			return err
		}
	}
	var rights []byte
	if fd != noFile {
		rights = syscall.UnixRights(fd)
	}
	n, _, err := c.conn.WriteMsgUnix(data, rights, nil)
	if n <= 0 && err != nil {
		return err
	}
	if n < len(data) { // the descriptor has gone with the first part
		more, _ := c.conn.Write(data[n:])
		c.unsent = bytes.Clone(data[n+more:])
	}
	return nil
}

// armDeadline makes writes end when ctx does. The function it returns must be called before the turn to send is given
// on.
func (c *Client) armDeadline(ctx context.Context) (release func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	deadline, _ := ctx.Deadline() // zero for none
	if err := c.conn.SetWriteDeadline(deadline); err != nil {
		return nil, fmt.Errorf("cannot set a deadline: %w", err)
	}
	expired := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(expired)
		_ = c.conn.SetWriteDeadline(time.Unix(1, 0)) // fails only if the socket is closed, which ends the write too
	})
	return func() {
		if !stop() {
			<-expired // or it would cut the next sender short
		}
	}, nil
}
