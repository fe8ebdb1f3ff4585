package pageback

import (
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"qlive/internal/proc"
	"qlive/vmstate/stream"
)

// Block is a RAM block of the source.
type Block struct {
	Name  string
	At    uint64   // address in the source
	Bytes uint64   // that migrate
	File  *os.File // what the target had for it, and what keeps its pages meanwhile; nil: that was the target's own, and its pages are kept here
}

// kept is a block and what has come of it.
type kept struct {
	Block
	came  []uint64 // a bit for each page that has come through the channel
	full  int      // how many of them were no zeroes
	pages map[uint64][]byte
}

func newKept(b Block) *kept {
	k := &kept{Block: b, came: make([]uint64, (b.Bytes/stream.PageBytes+64)/64)}
	if b.File == nil {
		k.pages = make(map[uint64][]byte)
	}
	return k
}

// keep notes that a page has come; data is nil for one of zeroes.
func (k *kept) keep(offset uint64, data []byte) error {
	if data != nil && !marked(k.came, offset) {
		k.full++
	}
	mark(k.came, offset)
	switch {
	case data == nil && k.placed(offset): // before the guest cleared it, and was stopped
		return unix.Fallocate(int(k.File.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, int64(offset), stream.PageBytes)
	case data == nil:
		delete(k.pages, offset)
		return nil
	case k.File == nil:
		k.pages[offset] = slices.Clone(data)
		return nil
	}
	if _, err := k.File.WriteAt(data, int64(offset)); err != nil {
		return fmt.Errorf("cannot keep a page of RAM block %s: %w", k.Name, err)
	}
	return nil
}

// placed tells whether the target had placed a page before it died.
func (k *kept) placed(offset uint64) bool {
	if k.File == nil {
		return false
	}
	at, err := unix.Seek(int(k.File.Fd()), int64(offset), unix.SEEK_DATA)
	return err == nil && uint64(at) == offset
}

// missing counts the pages that are nowhere, and tells the last of them: they have not come, the target had not placed them, and the source does not have them either. Of a block
// that does not migrate no page comes, and what is in it the source still has.
func (k *kept) missing(source *proc.Pagemap) (n int, last uint64, err error) {
	came := false
	there := make([]uint64, len(k.came))
	err = source.Touched(proc.Range{Start: k.At, End: k.At + k.Bytes}, func(r proc.Range) {
		for at := max(r.Start, k.At); at < min(r.End, k.At+k.Bytes); at += stream.PageBytes {
			mark(there, at-k.At)
		}
	})
	for offset := uint64(0); offset < k.Bytes && err == nil; offset += stream.PageBytes {
		switch {
		case marked(k.came, offset):
			came = true
		case !marked(there, offset) && !k.placed(offset):
			n, last = n+1, offset
		}
	}
	if !came && uint64(n)*stream.PageBytes < k.Bytes {
		return 0, 0, err
	}
	return n, last, err
}

func mark(bits []uint64, offset uint64) {
	bits[offset/stream.PageBytes/64] |= 1 << (offset / stream.PageBytes % 64)
}

func marked(bits []uint64, offset uint64) bool {
	return bits[offset/stream.PageBytes/64]>>(offset/stream.PageBytes%64)&1 != 0
}
