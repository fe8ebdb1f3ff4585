package stream

import (
	"encoding/binary"
	"maps"
	"math/bits"
	"slices"
)

// Sieve keeps the pages of zeroes of a postcopy back from the target until it asks for one. What it never asks for stays a hole in the target's memory:
// QEMU empties all of it before a postcopy (postcopy_ram_incoming_init), counts nothing, and takes userfaultfd off at the end, from when on holes read as zeroes.
//
// Only what comes after [Sieve.Begin] is kept back, and after the PACKAGED command, from when on the target has its page faults told. What the Sieve does not understand, it lets pass: it
// gives out all that it has kept back, keeps nothing any more, and says why ([Sieve.Aside]). So whatever is put in, the target gets
// the same memory. Kept-back pages are given out between two records or sections, wherever the stream stands.
//
// It is not safe for concurrent use.
type Sieve struct {
	state   sieveState
	through int    // bytes of the stream that pass unread
	ram     uint32 // id of the section "ram"
	total   uint64 // bytes of RAM that the table has yet to account for

	blocks []*sieved
	in     *sieved // block of the last page of the source
	out    *sieved // block of the last page that was given out
	asked  *sieved // block of the last request
	owed   []owing

	begun    bool   // by Begin
	packaged bool   // the guest runs in the target, or is about to
	loaded   bool   // the target has read all of the devices: see end
	ended    bool   // the source has ended its stream
	held     uint64 // pages that are kept back now
	aside    string
	stats    SieveStats
}

// SieveStats says what a Sieve has done.
type SieveStats struct {
	Zeroes uint64 // pages of zeroes that the source has sent
	Kept   uint64 // of those, how many are kept back
	Given  uint64 // how many of those kept back were given out after all
}

type sieveState uint8

const (
	sieveHead    sieveState = iota // magic and version
	sieveSection                   // the kind of a section
	sieveWord                      // a word of section "ram"
	sieveTable                     // an entry of its table
	sieveFooter                    // of section "ram"
	sievePassing                   // all passes
)

// sieved is a RAM block and which of its pages are kept back, which were asked for before the source had sent them.
type sieved struct {
	name  string
	pages uint64
	kept  bitmap
	early bitmap
}

type owing struct {
	block *sieved
	page  uint64
}

// bitmap is a set of pages. It takes memory where there are some: a word of 64 pages, in a leaf of 128 MiB of the guest.
type bitmap map[uint64]*[leafWords]uint64

const leafWords = 512

func (b bitmap) has(page uint64) bool {
	leaf := b[page/64/leafWords]
	return leaf != nil && leaf[page/64%leafWords]&(1<<(page%64)) != 0
}

func (b bitmap) set(page uint64) {
	leaf := b[page/64/leafWords]
	if leaf == nil {
		leaf = new([leafWords]uint64)
		b[page/64/leafWords] = leaf
	}
	leaf[page/64%leafWords] |= 1 << (page % 64)
}

// clear takes out a page that it has.
func (b bitmap) clear(page uint64) {
	b[page/64/leafWords][page/64%leafWords] &^= 1 << (page % 64)
}

// all are its pages, by rising number.
func (b bitmap) all(yield func(page uint64) bool) {
	for _, n := range slices.Sorted(maps.Keys(b)) {
		for i, word := range b[n] {
			for ; word != 0; word &= word - 1 {
				if !yield((n*leafWords+uint64(i))*64 + uint64(bits.TrailingZeros64(word))) {
					return
				}
			}
		}
	}
}

// verdict is what becomes of a record.
type verdict uint8

const (
	pass verdict = iota
	keep
	rename  // its page goes on, with the name of its block
	unknown // nothing from here on is understood
	wait    // for the target
)

// headerLimit is more than any header of a record or section has: what is not whole within it is no header.
const headerLimit = 1 << 16

// Sift reads b, the next bytes of the source. It appends to out what is to be written to the target, in pieces that may lie in b, and says how much of b it
// has read. The rest is put in again, with more behind it, or, if [Sieve.Waits], once the target has said something.
func (s *Sieve) Sift(b []byte, out [][]byte) (pieces [][]byte, read int) {
	from, pos := 0, 0
	flush := func() {
		if pos > from {
			out = append(out, b[from:pos:pos])
		}
	}
	for pos < len(b) {
		if s.through > 0 || s.state == sievePassing {
			n := len(b) - pos
			if s.state != sievePassing {
				n = min(n, s.through)
				s.through -= n
			}
			pos += n
			continue
		}
		if len(s.owed) > 0 && s.between() {
			flush()
			out, from = append(out, s.Owed()), pos
		}
		c := cursor{b: b, pos: pos, end: len(b)}
		state := s.state
		v := s.next(&c)
		switch {
		case c.short && len(b)-pos < headerLimit:
			s.state = state
			flush()
			return out, pos
		case c.short, v == unknown:
			flush()
			s.state = state
			s.GiveAll("the source sends what is not understood")
			if owed := s.Owed(); len(owed) > 0 {
				out = append(out, owed)
			}
			from, s.state = pos, sievePassing
		case v == wait:
			flush()
			return out, pos
		case v == pass:
			pos = c.pos
		default:
			flush()
			if v == rename {
				out = append(out, s.renamed(binary.BigEndian.Uint64(b[pos:])))
			}
			pos = c.pos
			from = pos
		}
	}
	flush()
	return out, pos
}

// between tells whether a page may be given out here.
func (s *Sieve) between() bool {
	return s.through == 0 && s.packaged && (s.state == sieveSection || s.state == sieveWord)
}

// renamed writes the header of a page whose block the source did not name, since the page before was of the same. The target has not seen that one.
func (s *Sieve) renamed(word uint64) []byte {
	b := appendCounted(binary.BigEndian.AppendUint64(nil, word&^FlagContinue), s.in.name)
	if word&FlagZero != 0 {
		b = append(b, 0)
	}
	return b
}

// Owed gives out what is kept back and was asked for. It is empty if there is nothing, or the stream stands inside of a page.
func (s *Sieve) Owed() []byte {
	if len(s.owed) == 0 || !s.between() {
		return nil
	}
	var b []byte
	if s.state == sieveSection {
		b = binary.BigEndian.AppendUint32(append(b, byte(KindPart)), s.ram)
	}
	for _, o := range s.owed {
		word := o.page*PageBytes | FlagZero
		if s.out == o.block {
			b = binary.BigEndian.AppendUint64(b, word|FlagContinue)
		} else {
			b = appendCounted(binary.BigEndian.AppendUint64(b, word), o.block.name)
		}
		b = append(b, 0)
		s.out = o.block
	}
	s.stats.Given += uint64(len(s.owed))
	s.owed = s.owed[:0]
	if s.state == sieveSection {
		b = appendFooter(binary.BigEndian.AppendUint64(b, FlagEOS), s.ram)
	}
	return b
}

// GiveAll makes owed all that is kept back, and keeps nothing any more; why says for what reason.
func (s *Sieve) GiveAll(why string) {
	if s.aside == "" {
		s.aside = why
	}
	for _, block := range s.blocks {
		for page := range block.kept.all {
			s.owed = append(s.owed, owing{block, page})
		}
		clear(block.kept)
	}
	s.held = 0
}

// Begin lets pages be kept back from now on. Whoever may yet want back what the source has sent, from the channel, lets it pass until then.
func (s *Sieve) Begin() { s.begun = true }

// Running tells whether the devices of the guest have passed.
func (s *Sieve) Running() bool { return s.packaged && s.through == 0 }

// Aside says why nothing is kept back any more; empty if that is not so.
func (s *Sieve) Aside() string { return s.aside }

// Stats is what the Sieve has done so far.
func (s *Sieve) Stats() SieveStats { return s.stats }
