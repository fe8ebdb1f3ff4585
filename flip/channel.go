package flip

import (
	"context"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// sendBuffer is what the migration channel holds without anyone reading. QEMU's main loop writes the device state
// in one go: if the buffer were smaller than the stream, a target that hangs would hang the source's main loop, and with
// it the monitor that is needed to undo the handoff.
const sendBuffer = 128 << 20

// socketPair makes the channel that the stream goes through: two connected ends, without a name that anyone else could open,
// closed on exec.
func socketPair() (a, b *os.File, err error) { return bufferedPair(sendBuffer) }

func bufferedPair(buffer int) (a, b *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot make the migration channel: %w", err)
	}
	for _, fd := range fds {
		// FORCE goes beyond net.core.wmem_max; it needs CAP_NET_ADMIN, which a daemon that starts QEMUs with taps has.
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, buffer); err != nil {
			unix.Close(fds[0])
			unix.Close(fds[1])
			return nil, nil, fmt.Errorf("cannot give the migration channel a buffer of %d bytes: %w", buffer, err)
		}
	}
	return os.NewFile(uintptr(fds[0]), "migration-a"), os.NewFile(uintptr(fds[1]), "migration-b"), nil
}

// channel makes a channel with one end for this QEMU, which waits for its guest there from now on, the other for qlive, and nobody else.
func (s *Side) channel(ctx context.Context, buffer int) (*net.UnixConn, error) {
	conn, err := s.end(ctx, buffer)
	if err != nil {
		return nil, err
	}
	if err := s.Monitor.MigrateIncoming(ctx, "fd:"+channelName, nil); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// end makes a channel and gives this QEMU one end of it, by the name channelName. The other is qlive's.
func (s *Side) end(ctx context.Context, buffer int) (*net.UnixConn, error) {
	ours, theirs, err := bufferedPair(buffer)
	if err != nil {
		return nil, err
	}
	defer ours.Close()
	defer theirs.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		return nil, fmt.Errorf("cannot use the migration channel: %w", err)
	}
	if err := s.Monitor.Getfd(ctx, channelName, int(theirs.Fd())); err != nil {
		conn.Close()
		return nil, fmt.Errorf("cannot give QEMU %s the channel: %w", s.Version, err)
	}
	return conn.(*net.UnixConn), nil // of an AF_UNIX socket
}

// endsWith makes all that waits for a socket end with ctx, and gives back what undoes that.
func endsWith(ctx context.Context, socket interface{ SetDeadline(time.Time) error }) func() {
	stop := context.AfterFunc(ctx, func() { _ = socket.SetDeadline(time.Unix(1, 0)) }) // fails only on a closed socket
	return func() { stop() }
}
