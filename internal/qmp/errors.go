package qmp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"
)

// Error is QEMU's refusal of a command, in its own words.
type Error struct {
	Class string `json:"class"` // nearly always GenericError
	Desc  string `json:"desc"`
}

// Error is QEMU's description.
func (e *Error) Error() string { return e.Desc }

// Classes of Error that mean something of their own; all else is GenericError.
const (
	ClassCommandNotFound = "CommandNotFound"
	ClassDeviceNotFound  = "DeviceNotFound"
)

var (
	// ErrClosed says that the connection to the monitor has ended; what is wrapped beside it says why.
	ErrClosed = errors.New("the monitor connection has ended")

	// ErrExited says that the process ended before its monitor could be reached.
	ErrExited = errors.New("the process has ended")

	// ErrSlow ends a subscription that was not read.
	ErrSlow = errors.New("the subscriber is too slow")

	errClosedHere = errors.New("closed here")
	errHungUp     = errors.New("QEMU hung up")
)

// commandError wraps what went wrong with a command, naming it.
func commandError(name string, err error) error {
	return fmt.Errorf("cannot execute %s: %w", name, err)
}

// waitError is the error of a call whose ctx has ended before the reply came. The wait began at since.
func waitError(ctx context.Context, name string, since time.Time) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		waited := time.Since(since).Round(time.Millisecond)
		return fmt.Errorf("cannot execute %s: no reply from QEMU in %s: %w", name, waited, ended(ctx))
	}
	return fmt.Errorf("cannot execute %s: gave up waiting for the reply: %w", name, ended(ctx))
}

// sendError names what kept a command from being written.
func sendError(ctx context.Context, name string, err error) error {
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("cannot send %s: QEMU does not read its monitor: %w", name, ended(ctx))
	case errors.Is(err, os.ErrDeadlineExceeded): // the socket's clock was a little ahead of the context's
		return fmt.Errorf("cannot send %s: QEMU does not read its monitor: %w", name, context.DeadlineExceeded)
	case errors.Is(err, net.ErrClosed), errors.Is(err, syscall.EPIPE), errors.Is(err, syscall.ECONNRESET):
		return fmt.Errorf("cannot send %s: %w: %w", name, ErrClosed, err)
	default:
		return fmt.Errorf("cannot send %s: %w", name, err)
	}
}

// ended says why ctx ended, so that both its Err and its cause are found in it.
func ended(ctx context.Context) error {
	err, cause := ctx.Err(), context.Cause(ctx)
	if errors.Is(cause, err) {
		return cause
	}
	return fmt.Errorf("%w: %w", err, cause)
}

// endOf says why reading ended: a closed socket in words, anything else as it is.
func endOf(err error) error {
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET):
		return errHungUp
	case errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("%w in the middle of a message", errHungUp)
	case errors.Is(err, net.ErrClosed):
		return errClosedHere
	default:
		return err
	}
}
