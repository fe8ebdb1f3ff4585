package qmp

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// PeerPID is the process that serves the monitor: the one that has begun to listen on its socket (SO_PEERCRED, unix(7)).
func (c *Client) PeerPID() (int, error) {
	raw, err := c.conn.SyscallConn()
	if err != nil {
		return 0, fmt.Errorf("cannot tell who serves the monitor: %w", err)
	}
	var peer *unix.Ucred
	var failed error
	if err := raw.Control(func(fd uintptr) { peer, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return 0, fmt.Errorf("cannot tell who serves the monitor: %w", err)
	}
	if failed != nil {
		return 0, fmt.Errorf("cannot tell who serves the monitor: %w", failed)
	}
	return int(peer.Pid), nil
}
