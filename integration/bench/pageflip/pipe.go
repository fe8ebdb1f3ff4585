package pageflip

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// release is when a chunk's pages are freed.
type release int

const (
	behind release = iota // once the taker has them
	early                 // while they are in the pipe
	never
)

// makePipe makes a pipe that holds a chunk, if the system lets it, and passes its reading end.
func (s *side) makePipe() (w int, err error) {
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_CLOEXEC); err != nil {
		return -1, fmt.Errorf("cannot make a pipe: %w", err)
	}
	defer unix.Close(ends[0])
	// Refused where an administrator has set less: then the kernel makes us wait more often.
	_, _ = unix.FcntlInt(uintptr(ends[1]), unix.F_SETPIPE_SZ, chunkBytes)
	if err := s.send(ends[0]); err != nil {
		unix.Close(ends[1])
		return -1, err
	}
	return ends[1], nil
}

// giveGift puts references to the pages into the pipe.
func giveGift(when release) func(*side) error {
	return func(s *side) error {
		w, err := s.makePipe()
		if err != nil {
			return err
		}
		defer unix.Close(w)
		for _, part := range s.chunks() {
			if err := vmsplice(w, part, unix.SPLICE_F_GIFT); err != nil {
				return err
			}
			if when == early {
				if err := dontNeed(part); err != nil {
					return err
				}
			}
			if err := s.await(); err != nil {
				return err
			}
			if when == behind {
				if err := dontNeed(part); err != nil {
					return err
				}
			}
		}
		return nil
	}
}

// giveFileSplice puts references to the pages of the donor's own memfd into the pipe.
func giveFileSplice(s *side) error {
	w, err := s.makePipe()
	if err != nil {
		return err
	}
	defer unix.Close(w)
	for off, part := range s.chunks() {
		for at, end := off, off+int64(len(part)); at < end; {
			n, err := again(func() (int64, error) { return unix.Splice(s.file, &at, w, nil, int(end-at), unix.SPLICE_F_MOVE) })
			if err := moved("splice", n, err); err != nil {
				return err
			}
		}
		if err := s.await(); err != nil {
			return err
		}
		const punch = unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE
		if err := unix.Fallocate(s.file, punch, off, int64(len(part))); err != nil {
			return fmt.Errorf("cannot free what has been moved: %w", err)
		}
	}
	return nil
}

// takeSplice asks the kernel to move the pages from the pipe into the memfd.
func takeSplice(s *side) error {
	return s.takePipe(func(r int, off int64, part []byte) error {
		for at, end := off, off+int64(len(part)); at < end; {
			n, err := again(func() (int64, error) { return unix.Splice(r, nil, s.file, &at, int(end-at), unix.SPLICE_F_MOVE) })
			if err := moved("splice", n, err); err != nil {
				return err
			}
		}
		return nil
	})
}

// takeVmsplice reads the pipe into the mapping.
func takeVmsplice(s *side) error {
	return s.takePipe(func(r int, _ int64, part []byte) error { return vmsplice(r, part, 0) })
}

func (s *side) takePipe(take func(r int, off int64, part []byte) error) error {
	r, err := s.receive()
	if err != nil {
		return err
	}
	defer unix.Close(r)
	for off, part := range s.chunks() {
		if err := take(r, off, part); err != nil {
			return err
		}
		if err := s.ack(); err != nil {
			return err
		}
	}
	return nil
}

// vmsplice goes from memory into a pipe, or from a pipe into memory.
func vmsplice(pipe int, part []byte, flags int) error {
	for len(part) > 0 {
		piece := unix.Iovec{Base: &part[0]}
		piece.SetLen(len(part))
		n, err := again(func() (int, error) { return unix.Vmsplice(pipe, []unix.Iovec{piece}, flags) })
		if err := moved("vmsplice", int64(n), err); err != nil {
			return err
		}
		part = part[n:]
	}
	return nil
}

func moved(call string, n int64, err error) error {
	if err == nil && n == 0 {
		err = unix.EPIPE
	}
	if err != nil {
		return fmt.Errorf("cannot %s: %w", call, err)
	}
	return nil
}

func dontNeed(part []byte) error {
	if err := unix.Madvise(part, unix.MADV_DONTNEED); err != nil {
		return fmt.Errorf("cannot free what has been moved: %w", err)
	}
	return nil
}
