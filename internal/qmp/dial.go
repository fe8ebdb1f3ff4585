package qmp

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"syscall"
	"time"
)

// maxPath is the longest name that a unix socket can have, in bytes.
const maxPath = 107

// How long to wait between two tries to connect: short at first, because the wait is part of a handoff's preparation.
const (
	firstRetry = time.Millisecond
	lastRetry  = 20 * time.Millisecond
)

// maxHangUps is how often QEMU may hang up on a new client before that is its last word. It does so now and then on one that comes while it is still
// parting with the one before.
const maxHangUps = 3

// Dial connects to the monitor at path and negotiates. A socket that does not exist yet, or that nobody serves yet, is
// tried again until ctx ends or the process has exited.
func Dial(ctx context.Context, path string, opts Options) (*Client, error) {
	if len(path) > maxPath {
		return nil, fmt.Errorf("cannot connect to the monitor at %s: the path has %d bytes, a socket's may have %d; choose a shorter folder",
			path, len(path), maxPath)
	}
	for hangUps := 1; ; hangUps++ {
		conn, err := connect(ctx, path, opts.Exited)
		if err != nil {
			return nil, fmt.Errorf("cannot connect to the monitor at %s: %w", path, err)
		}
		c, err := New(ctx, conn, opts)
		if err == nil {
			return c, nil
		}
		if !errors.Is(err, ErrClosed) || hangUps == maxHangUps || ctx.Err() != nil {
			return nil, fmt.Errorf("cannot use the monitor at %s: %w", path, err)
		}
	}
}

func connect(ctx context.Context, path string, exited <-chan struct{}) (*net.UnixConn, error) {
	for wait := firstRetry; ; wait = min(2*wait, lastRetry) {
		conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"}) // never blocks
		if err == nil {
			return conn, nil
		}
		if !mayComeUp(err) {
			return nil, err
		}
		retry := time.NewTimer(wait)
		select {
		case <-retry.C:
		case <-exited:
			retry.Stop()
			return nil, fmt.Errorf("%w; the last try said: %w", ErrExited, err)
		case <-ctx.Done():
			retry.Stop()
			return nil, fmt.Errorf("%w; the last try said: %w", ended(ctx), err)
		}
	}
}

// mayComeUp tells a socket that is not served yet from one that never will be: EAGAIN is a full backlog.
func mayComeUp(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.EAGAIN)
}
