package move

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"unsafe"

	"golang.org/x/sys/unix"

	"qlive/flip/memory"
	"qlive/vmstate"
)

// pieceBytes is what is copied by one system call, and looked at for zeros at once: it stays in a processor's second-level cache on the way.
const pieceBytes = 256 << 10

// end is one of the two files of a region, as chunks are copied from it or into it.
type end struct {
	*memory.Region
	huge bool   // of huge pages: nothing can be written but through a mapping, and its holes are not told
	full bool   // it has no holes
	room []byte // the file, mapped; nil if that is not needed
}

// newEnd opens one side of a region. A file of huge pages is mapped: of ordinary pages that would cost a fault for each.
func newEnd(r *memory.Region, nodes []int) (*end, error) {
	e := &end{Region: r, huge: r.Backing() != vmstate.Memfd}
	holes, err := r.HasHoles()
	if err != nil {
		return nil, err
	}
	if e.full = !holes; !e.huge {
		return e, nil
	}
	// What the file has reserved is there for this mapping too; nothing is reserved for it.
	if e.room, err = unix.Mmap(int(r.File().Fd()), 0, int(r.SizeBytes()), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_NORESERVE); err != nil {
		return nil, fmt.Errorf("cannot map RAM block %q: %w", r.Name(), os.NewSyscallError("mmap", err))
	}
	if err := memory.Bind(e.room, nodes); err != nil {
		return nil, errors.Join(err, e.close())
	}
	return e, nil
}

func (e *end) close() error {
	if e == nil || e.room == nil {
		return nil
	}
	room := e.room
	e.room = nil
	return os.NewSyscallError("munmap", unix.Munmap(room))
}

// empty tells whether nothing at all is allocated.
func (e *end) empty() (bool, error) {
	n, err := e.AllocatedBytes()
	return n == 0, err
}

// free gives back the pages between two offsets, and what had been promised of them.
func (e *end) free(from, to uint64) error {
	if err := unix.Fallocate(int(e.File().Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, int64(from), int64(to-from)); err != nil {
		return fmt.Errorf("cannot free %d bytes at %d of RAM block %q: %w", to-from, from, e.Name(), os.NewSyscallError("fallocate", err))
	}
	return nil
}

// again frees the pages between two offsets, and has as many promised. The error is one that [memory.IsShort] knows if somebody has taken them in the moment
// between.
func (e *end) again(from, to uint64) error {
	if err := e.free(from, to); err != nil {
		return err
	}
	return e.Promise(from, to)
}

// fill has a page in every hole between two offsets: what was promised for a hole is given back only as a page is freed. It takes as long as clearing them.
// Where not even one is to be had nothing had been promised.
func (e *end) fill(from, to uint64) error {
	for {
		err := unix.Fallocate(int(e.File().Fd()), unix.FALLOC_FL_KEEP_SIZE, int64(from), int64(to-from))
		switch {
		case err == nil, errors.Is(err, unix.ENOSPC):
			return nil
		case !errors.Is(err, unix.EINTR): // it goes on behind what it has filled
			return fmt.Errorf("cannot fill %d bytes at %d of RAM block %q: %w", to-from, from, e.Name(), os.NewSyscallError("fallocate", err))
		}
	}
}

// extent finds the data between two offsets: from where to where it goes; none if there is none any more.
func (e *end) extent(from, to uint64) (start, stop uint64, err error) {
	if e.huge || e.full {
		return from, to, nil
	}
	fd := int(e.File().Fd())
	at, err := unix.Seek(fd, int64(from), unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) || err == nil && uint64(at) >= to {
		return to, to, nil
	}
	if err != nil {
		return 0, 0, fmt.Errorf("cannot find the data of RAM block %q: %w", e.Name(), os.NewSyscallError("lseek", err))
	}
	behind, err := unix.Seek(fd, at, unix.SEEK_HOLE)
	if err != nil {
		return 0, 0, fmt.Errorf("cannot find the holes of RAM block %q: %w", e.Name(), os.NewSyscallError("lseek", err))
	}
	return uint64(at), min(uint64(behind), to), nil
}

// copier copies between the two ends of a region with a buffer of its own.
type copier struct{ piece []byte }

func newCopier() *copier { return &copier{piece: make([]byte, pieceBytes)} }

// copy copies what is between two offsets, and tells how much of it was data. The destination has nothing there.
func (c *copier) copy(ctx context.Context, dst, src *end, from, to uint64) (data uint64, err error) {
	for at := from; at < to; {
		start, stop, err := src.extent(at, to)
		if err != nil {
			return data, err
		}
		for at = start; at < stop; {
			if ctx.Err() != nil {
				return data, context.Cause(ctx)
			}
			n := min(stop-at, pieceBytes)
			copied, err := c.copyPiece(dst, src, at, n)
			if err != nil {
				return data, fmt.Errorf("cannot copy %d bytes at %d of RAM block %q: %w", n, at, src.Name(), err)
			}
			data += copied
			at += n
		}
	}
	return data, nil
}

// copyPiece copies n bytes by what is quickest between the two (docs/decisions.md has the figures), and leaves out zeros where they may stand for a
// hole.
func (c *copier) copyPiece(dst, src *end, at, n uint64) (uint64, error) {
	sparse := src.huge && !src.full
	switch {
	case dst.huge && !sparse:
		return n, readFull(src.File(), dst.room[at:at+n], at)
	case src.huge && !sparse: // a huge page that is there may have little in it
		if empty, err := zeroMapped(src.room[at : at+n]); empty || err != nil {
			return 0, err
		}
		return n, writeFull(dst.File(), src.room[at:at+n], at)
	}
	piece := c.piece[:n]
	if err := readFull(src.File(), piece, at); err != nil {
		return 0, err
	}
	if sparse && zero(piece) {
		return 0, nil
	}
	if dst.huge {
		return n, store(dst.room[at:at+n], piece)
	}
	return n, writeFull(dst.File(), piece, at)
}

func readFull(f *os.File, to []byte, at uint64) error {
	for len(to) > 0 {
		n, err := unix.Pread(int(f.Fd()), to, int64(at))
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return os.NewSyscallError("pread", err)
		case n == 0:
			return io.ErrUnexpectedEOF
		}
		to, at = to[n:], at+uint64(n)
	}
	return nil
}

func writeFull(f *os.File, from []byte, at uint64) error {
	for len(from) > 0 {
		n, err := unix.Pwrite(int(f.Fd()), from, int64(at))
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return os.NewSyscallError("pwrite", err)
		case n == 0:
			return io.ErrShortWrite
		}
		from, at = from[n:], at+uint64(n)
	}
	return nil
}

// store copies into a mapping. A huge page that is not to be had is SIGBUS there, and an error here.
func store(to, from []byte) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if fault := recover(); fault != nil {
			err = fmt.Errorf("a page is not to be had: %v: %w", fault, unix.ENOMEM)
		}
	}()
	copy(to, from)
	return nil
}

// zeroMapped is zero for a mapping.
func zeroMapped(b []byte) (_ bool, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if fault := recover(); fault != nil {
			err = fmt.Errorf("a page is not to be read: %v: %w", fault, unix.EIO)
		}
	}()
	return zero(b), nil
}

// zero tells whether b, which is whole words, has nothing but zeros.
func zero(b []byte) bool {
	words := unsafe.Slice((*uint64)(unsafe.Pointer(unsafe.SliceData(b))), len(b)/8)
	for len(words) >= 8 {
		if words[0]|words[1]|words[2]|words[3]|words[4]|words[5]|words[6]|words[7] != 0 {
			return false
		}
		words = words[8:]
	}
	for _, w := range words {
		if w != 0 {
			return false
		}
	}
	return true
}
