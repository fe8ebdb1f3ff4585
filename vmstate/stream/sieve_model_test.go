package stream_test

import (
	"bytes"
	"fmt"
	"maps"
	"slices"

	"qlive/vmstate/stream"
)

const (
	wordZero     = 0x02
	wordSize     = 0x04
	wordPage     = 0x08
	wordEOS      = 0x10
	wordContinue = 0x20
)

// spot is a page of a guest.
type spot struct {
	block string
	page  uint64
}

// postcopy writes the stream of a postcopy as QEMU does.
type postcopy struct {
	builder
	last string // block of the last page
}

// begun is a postcopy up to the table of its blocks.
func begun(blocks map[string]uint64) *postcopy {
	w := &postcopy{builder: *header().u8(7).u32(10).raw([]byte("pc-q35-7.2"))}
	w.command(stream.CommandOpenReturnPath).ping(1).command(stream.CommandPostcopyAdvise, make([]byte, 16)...)
	w.open(stream.KindStart, 2, "ram", 4)
	var total uint64
	for _, pages := range blocks {
		total += pages * stream.PageBytes
	}
	w.u64(total | wordSize)
	for _, name := range slices.Sorted(maps.Keys(blocks)) {
		w.text(name).u64(blocks[name] * stream.PageBytes)
	}
	w.u64(wordEOS).footer(2)
	return w
}

func (w *postcopy) command(c stream.Command, data ...byte) *postcopy {
	w.u8(8).u16(uint16(c)).u16(uint16(len(data))).raw(data)
	return w
}

func (w *postcopy) ping(n byte) *postcopy { return w.command(stream.CommandPing, 0, 0, 0, n) }

// packaged are the devices. They are not read, and may hold anything.
func (w *postcopy) packaged() *postcopy {
	blob := bytes.Repeat([]byte{8, 0, 7, 0, 4}, 5)
	w.command(stream.CommandPackaged, 0, 0, 0, byte(len(blob)))
	w.raw(blob)
	return w.ping(4)
}

func (w *postcopy) part(kind stream.Kind) *postcopy { w.u8(byte(kind)).u32(2); return w }
func (w *postcopy) end() *postcopy                  { w.u64(wordEOS).footer(2); return w }

// page sends one; of fill 0 it is a page of zeroes.
func (w *postcopy) page(s spot, fill byte) *postcopy {
	word := s.page*stream.PageBytes | wordPage
	if fill == 0 {
		word = s.page*stream.PageBytes | wordZero
	}
	if w.last == s.block {
		w.u64(word | wordContinue)
	} else {
		w.u64(word).text(s.block)
	}
	w.last = s.block
	if fill == 0 {
		w.u8(0)
	} else {
		w.raw(bytes.Repeat([]byte{fill}, stream.PageBytes))
	}
	return w
}

// loader is a target: it loads what it is given, and nothing twice.
type loader struct {
	in       []byte
	inRAM    bool
	last     string
	running  bool
	ended    bool
	commands int
	placed   map[spot]byte // since it runs
}

// take loads as much as is there.
func (l *loader) take(b []byte) error {
	l.in = append(l.in, b...)
	for {
		n, err := l.one(l.in)
		if err != nil || n == 0 {
			return err
		}
		l.in = l.in[n:]
	}
}

// one loads one item; 0 if it is not all there.
func (l *loader) one(b []byte) (int, error) {
	if l.ended && len(b) > 0 {
		return 0, fmt.Errorf("%d bytes behind the end", len(b))
	}
	if l.inRAM {
		return l.record(b)
	}
	if len(b) == 0 {
		return 0, nil
	}
	switch b[0] {
	case 'Q':
		return whole(b, 8+1+4+10), nil
	case 0:
		l.ended = true
		return 1, nil
	case 1:
		l.inRAM = len(b) >= 17
		return whole(b, 17), nil
	case 2, 3:
		l.inRAM = len(b) >= 5
		return whole(b, 5), nil
	case 8:
		if len(b) < 9 {
			if len(b) >= 5 && b[4] == 0 {
				l.commands++
				return 5, nil
			}
			return 0, nil
		}
		n := 5 + int(b[4])
		if b[2] == byte(stream.CommandPackaged) {
			n += int(b[8])
			l.running = l.running || len(b) >= n
		}
		if len(b) >= n {
			l.commands++
		}
		return whole(b, n), nil
	}
	return 0, fmt.Errorf("a section of kind %d", b[0])
}

func (l *loader) record(b []byte) (int, error) {
	if len(b) < 8 {
		return 0, nil
	}
	word := be64(b)
	n, s := 8, spot{l.last, word / stream.PageBytes}
	named := func() bool {
		if len(b) < n+1 || len(b) < n+1+int(b[n]) {
			return false
		}
		s.block = string(b[n+1 : n+1+int(b[n])])
		n += 1 + len(s.block)
		return true
	}
	fill := byte(0)
	switch word & 0xfff &^ wordContinue {
	case wordEOS:
		if len(b) < 13 {
			return 0, nil
		}
		l.inRAM = false
		return 13, nil
	case wordSize:
		for left := word &^ 0xfff; left > 0; n += 8 {
			if !named() || len(b) < n+8 {
				return 0, nil
			}
			left -= be64(b[n:])
		}
		return n, nil
	case wordZero, wordPage:
		if word&wordContinue == 0 && !named() {
			return 0, nil
		}
		size := 1
		if word&wordPage != 0 {
			size = stream.PageBytes
		}
		if len(b) < n+size {
			return 0, nil
		}
		fill, n = b[n], n+size
	default:
		return 0, fmt.Errorf("a word %#x", word)
	}
	l.last = s.block
	if _, twice := l.placed[s]; l.running && twice {
		return 0, fmt.Errorf("page %v comes twice", s)
	}
	if l.running {
		l.placed[s] = fill
	}
	return n, nil
}

func whole(b []byte, n int) int {
	if len(b) < n {
		return 0
	}
	return n
}

func be64(b []byte) (v uint64) {
	for _, c := range b[:8] {
		v = v<<8 | uint64(c)
	}
	return v
}
