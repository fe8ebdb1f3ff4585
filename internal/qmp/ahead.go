package qmp

import (
	"bytes"
	"context"
	"errors"
	"time"
)

// Ahead is commands that QEMU has been sent but for what makes it execute the first: its last byte. QEMU reads a command byte by byte, some 3 µs
// each, and does nothing of it before it has all. Until [Ahead.Start] or [Ahead.Drop] nothing else can be sent on the connection; one goroutine
// uses it.
type Ahead struct {
	client *Client
	name   string
	calls  []*Call
	rest   []byte // the first command's last byte, and the other commands
	over   bool
}

// resync makes QEMU forget what it has read of a command; it answers with an error (docs/interop/qmp-spec.rst, "Command parsing": a client that
// wants to resynchronize sends 0xFF).
const resync = 0xff

// Ahead sends commands ahead. If it fails none of them will be executed.
func (c *Client) Ahead(ctx context.Context, commands ...Command) (*Ahead, error) {
	calls, name, err := c.prepare(noFile, commands)
	if err != nil {
		return nil, err
	}
	if len(calls) == 0 {
		return nil, errors.New("cannot send ahead: no command")
	}
	ctx, cancel := bounded(ctx, commands[0].Name, time.Now())
	defer cancel()
	if err := c.takeTurn(ctx, name); err != nil {
		return nil, err
	}
	c.number(calls)
	var buf bytes.Buffer
	encode(&buf, calls[0].query.Command, calls[0].query.Arguments, calls[0].query.ID)
	first := buf.Len() - 1
	for _, call := range calls[1:] {
		encode(&buf, call.query.Command, call.query.Arguments, call.query.ID)
	}
	if err := c.write(ctx, buf.Bytes()[:first], noFile); err != nil {
		c.sendTurn <- struct{}{}
		return nil, sendError(ctx, name, err)
	}
	return &Ahead{client: c, name: name, calls: calls, rest: buf.Bytes()[first:]}, nil
}

// Start makes QEMU execute the commands, in order. If it fails it will execute none of them, and Drop is still to be called.
func (a *Ahead) Start(ctx context.Context) ([]*Call, error) {
	ctx, cancel := bounded(ctx, a.calls[0].query.Command, time.Now())
	defer cancel()
	if err := a.client.register(a.calls); err != nil {
		return nil, commandError(a.name, err)
	}
	if err := a.client.write(ctx, a.rest, noFile); err != nil {
		err = sendError(ctx, a.name, err)
		a.client.forget(a.calls, err)
		return nil, err
	}
	a.end()
	return a.calls, nil
}

// Drop makes QEMU forget the commands, unless they were started. It does not wait for QEMU: one that reads nothing at the moment gets the word before
// whatever is sent next. It may be called more than once, and on nil.
func (a *Ahead) Drop(ctx context.Context) {
	if a == nil || a.over {
		return
	}
	defer a.end()
	c, first := a.client, a.calls[0].query
	// QEMU answers with an error that has no number: it belongs to the oldest call that is pending, this one.
	forgotten := []*Call{{client: c, done: make(chan struct{}), query: Query{ID: first.ID, Command: "dropped " + first.Command}}}
	if err := c.register(forgotten); err != nil {
		return // the connection has ended, and what was sent with it
	}
	if err := c.write(ctx, []byte{resync}, noFile); err != nil {
		c.unsent = append(c.unsent, resync)
	}
}

// end lets others send.
func (a *Ahead) end() {
	a.over = true
	a.client.sendTurn <- struct{}{}
}
