package pageback

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"qlive/internal/proc"
	"qlive/vmstate/stream"
)

// Spares are copies of pages that a source which is held down will send next. A target that cannot load its guest may read some of them before it ends
// (QEMU since 10.2 waits for them first).
type Spares struct {
	pages  map[string]map[uint64][]byte // nil for zeroes
	early  map[string][]uint64          // pages, no zeroes, that the target had before the switch
	absent map[string][]uint64          // pages that the source does not have: zeroes, if nothing was on its way
}

func (s *Spares) of(block string) map[uint64][]byte {
	if s == nil {
		return nil
	}
	return s.pages[block]
}

// Begin notes what the target has before the switch: of that, what the guest still changes is sent again.
func (s *Spares) Begin(blocks []Block) error {
	s.early = make(map[string][]uint64)
	for _, b := range blocks {
		if err := b.eachFull(func(offset uint64) { s.early[b.Name] = append(s.early[b.Name], offset) }); err != nil {
			return err
		}
	}
	return nil
}

// again counts the pages that were sent twice.
func (s *Spares) again(k *kept) (n int64) {
	if s == nil {
		return 0
	}
	for _, offset := range s.early[k.Name] {
		if marked(k.came, offset) {
			n++
		}
	}
	return n
}

// Quiet tells whether all that the source has sent has been placed by the target: sent is how many pages it says that were no zeroes.
func Quiet(blocks []Block, sent int64) bool {
	var here int64
	for _, b := range blocks {
		if err := b.eachFull(func(uint64) { here++ }); err != nil {
			return false
		}
	}
	return here == sent
}

// Confirm takes for zeroes what the last [Spares.Keep] did not find in the source: if nothing was on its way then, they are pages that the guest has never touched.
func (s *Spares) Confirm() {
	for block, offsets := range s.absent {
		for _, offset := range offsets {
			s.put(block, offset, nil)
		}
	}
	s.absent = nil
}

func (s *Spares) put(block string, offset uint64, data []byte) {
	if s.pages == nil {
		s.pages = make(map[string]map[uint64][]byte)
	}
	if s.pages[block] == nil {
		s.pages[block] = make(map[uint64][]byte)
	}
	s.pages[block][offset] = data
}

const (
	// nextPages is more than QEMU sends at once when it is held down: 32 pages that are no zeroes (MAX_IOV_SIZE in migration/qemu-file.c).
	nextPages = 64
	// nextBytes is how far it gets at once, past pages of zeroes of 9 bytes each, with a buffer of 32 KiB.
	nextBytes = 4096 * stream.PageBytes
	// mostPlaces bounds where it is looked for.
	mostPlaces = 64
)

// KeepFirst copies what source pid, whose guest stands, will send next if it has only been asked for the first page of its first block: from there on, and
// behind the last page of it that has arrived. It takes a part of the time of [Spares.Keep], in which the guest stands.
func (s *Spares) KeepFirst(pid int, blocks []Block) error {
	return s.keep(pid, blocks[:min(len(blocks), 1)], func(ends []uint64) []uint64 { return ends[max(0, len(ends)-1):] })
}

// Keep copies what source pid, whose guest stands, will send next: from the start of its first block on, and behind each page that has arrived, since
// QEMU goes on from where it was asked for one (get_queued_page in migration/ram.c). Blocks are in QEMU's order.
func (s *Spares) Keep(pid int, blocks []Block) error {
	return s.keep(pid, blocks, func(ends []uint64) []uint64 { return ends[:min(len(ends), mostPlaces)] })
}

// keep copies the next pages from the start of the first block on, and from those ends of what has arrived that are chosen.
func (s *Spares) keep(pid int, blocks []Block, choose func(ends []uint64) []uint64) error {
	tables, err := proc.OpenPagemap(pid)
	if err != nil {
		return err
	}
	defer tables.Close()
	s.absent = make(map[string][]uint64)
	for i, b := range blocks {
		var ends, places []uint64
		if i == 0 {
			places = []uint64{0}
		}
		if b.File != nil {
			err := eachData(b.File, b.Bytes, func(_, end int64) error {
				ends = append(ends, uint64(end))
				return nil
			})
			if err != nil {
				return err
			}
		}
		for _, from := range append(places, choose(ends)...) {
			if err := s.keepNext(pid, tables, b, from); err != nil {
				return err
			}
		}
	}
	return nil
}

// keepNext copies the next pages of a block. One counts only if the source still has it afterwards: else it may have been read as the zeroes that are
// left of one that has been sent.
func (s *Spares) keepNext(pid int, tables *proc.Pagemap, b Block, from uint64) error {
	window := proc.Range{Start: b.At + from, End: b.At + min(from+nextBytes, b.Bytes)}
	read := make(map[uint64][]byte)
	full, next := 0, window.Start
	var absent []uint64
	var failed error
	skip := func(to uint64) {
		for ; next < to && full < nextPages; next += stream.PageBytes {
			absent = append(absent, next-b.At)
		}
	}
	err := tables.Touched(window, func(r proc.Range) {
		skip(r.Start)
		for ; next < r.End && full < nextPages && failed == nil; next += stream.PageBytes {
			page := make([]byte, stream.PageBytes)
			failed = proc.ReadMemory(pid, next, page)
			if isZero(page) {
				page = nil
			} else {
				full++
			}
			read[next-b.At] = page
		}
	})
	skip(window.End)
	if err := errors.Join(err, failed); err != nil {
		return err
	}
	s.absent[b.Name] = append(s.absent[b.Name], absent...)
	return tables.Touched(window, func(r proc.Range) {
		for at := r.Start; at < r.End; at += stream.PageBytes {
			if page, ok := read[at-b.At]; ok {
				s.put(b.Name, at-b.At, page)
			}
		}
	})
}

// eachFull gives each page that the target has placed in a block and that is no zeroes, in order.
func (b Block) eachFull(visit func(offset uint64)) error {
	if b.File == nil {
		return nil
	}
	page := make([]byte, stream.PageBytes)
	return eachData(b.File, b.Bytes, func(start, end int64) error {
		for at := start; at < end; at += stream.PageBytes {
			if _, err := b.File.ReadAt(page, at); err != nil {
				return err
			}
			if !isZero(page) {
				visit(uint64(at))
			}
		}
		return nil
	})
}

// eachData gives each stretch of a file's first bytes that has memory, in order.
func eachData(f *os.File, size uint64, visit func(start, end int64) error) error {
	for at := int64(0); at < int64(size); {
		start, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil
		}
		if err != nil {
			return err
		}
		end, err := unix.Seek(int(f.Fd()), start, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		if start >= int64(size) {
			return nil
		}
		if err := visit(start, min(end, int64(size))); err != nil {
			return err
		}
		at = end
	}
	return nil
}
