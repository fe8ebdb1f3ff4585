package pageflip

import (
	"errors"
	"fmt"
	"io"
	"iter"

	"golang.org/x/sys/unix"
)

// chunkBytes is moved between one acknowledgement and the next: what a pipe can hold at most by default
// (/proc/sys/fs/pipe-max-size).
const chunkBytes = 1 << 20

// side is one of the two processes during a move.
type side struct {
	ram  []byte // the donor's memory; the taker's mapping of its memfd
	file int    // the memfd that ram maps, or -1
	peer int    // a socket to the other side

	pid  int     // of the other side
	addr uintptr // of the other side's ram
}

// chunks are the pieces of ram and where each begins.
func (s *side) chunks() iter.Seq2[int64, []byte] {
	return func(yield func(int64, []byte) bool) {
		for off := 0; off < len(s.ram); off += chunkBytes {
			if !yield(int64(off), s.ram[off:min(off+chunkBytes, len(s.ram))]) {
				return
			}
		}
	}
}

// ack tells the other side that a chunk is here, await waits to be told.
func (s *side) ack() error   { return writeAll(s.peer, []byte{1}) }
func (s *side) await() error { return readAll(s.peer, make([]byte, 1)) }

// send passes a descriptor to the other side.
func (s *side) send(fd int) error {
	if err := unix.Sendmsg(s.peer, []byte{0}, unix.UnixRights(fd), nil, 0); err != nil {
		return fmt.Errorf("cannot pass a descriptor: %w", err)
	}
	return nil
}

// receive waits for a descriptor of the other side.
func (s *side) receive() (int, error) {
	one, rights := make([]byte, 1), make([]byte, unix.CmsgSpace(4))
	var oobn int
	n, err := again(func() (n int, err error) {
		n, oobn, _, _, err = unix.Recvmsg(s.peer, one, rights, unix.MSG_CMSG_CLOEXEC)
		return n, err
	})
	if err == nil && n == 0 {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return -1, fmt.Errorf("cannot receive a descriptor: %w", err)
	}
	messages, err := unix.ParseSocketControlMessage(rights[:oobn])
	if err != nil || len(messages) != 1 {
		return -1, fmt.Errorf("cannot receive a descriptor: %d messages, %w", len(messages), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return -1, fmt.Errorf("cannot receive a descriptor: %d came, %w", len(fds), err)
	}
	return fds[0], nil
}

// writeAll and readAll use blocking descriptors that the Go runtime does not know: nothing of its poller is measured.
func writeAll(fd int, b []byte) error {
	for len(b) > 0 {
		n, err := again(func() (int, error) { return unix.Write(fd, b) })
		if err != nil {
			return fmt.Errorf("cannot write: %w", err)
		}
		b = b[n:]
	}
	return nil
}

func readAll(fd int, b []byte) error {
	for len(b) > 0 {
		n, err := again(func() (int, error) { return unix.Read(fd, b) })
		if err == nil && n == 0 {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return fmt.Errorf("cannot read: %w", err)
		}
		b = b[n:]
	}
	return nil
}

// again repeats a system call that a signal has interrupted.
func again[T any](call func() (T, error)) (T, error) {
	for {
		if v, err := call(); !errors.Is(err, unix.EINTR) {
			return v, err
		}
	}
}
