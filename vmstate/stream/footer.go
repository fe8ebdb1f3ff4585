package stream

import (
	"bytes"
	"encoding/binary"
	"slices"
)

// footer is a place that looks like the end of a section: the mark, an id, and behind it a byte that
// the next section could start with.
type footer struct {
	id  uint32
	pos int
}

// footers is an index of all such places between two offsets, by id and then by place.
type footers []footer

// findFooters looks once over b from start up to eof, where the final EOF lies.
func findFooters(b []byte, start, eof int) footers {
	var found footers
	for pos := start; pos+footerBytes <= eof; pos++ {
		next := bytes.IndexByte(b[pos:eof], byte(KindFooter))
		if next < 0 {
			break
		}
		pos += next
		if after := pos + footerBytes; after <= eof && startsSection(Kind(b[after]), after == eof) {
			found = append(found, footer{binary.BigEndian.Uint32(b[pos+1:]), pos})
		}
	}
	slices.SortFunc(found, func(a, b footer) int {
		if a.id != b.id {
			if a.id < b.id {
				return -1
			}
			return 1
		}
		return a.pos - b.pos
	})
	return found
}

func startsSection(k Kind, atEOF bool) bool {
	switch k {
	case KindStart, KindPart, KindEnd, KindFull, KindCommand:
		return !atEOF
	case KindEOF:
		return atEOF
	}
	return false
}

// first is the index of the first footer of id that lies at or behind pos; further ones follow it.
func (f footers) first(id uint32, pos int) int {
	i, _ := slices.BinarySearchFunc(f, footer{id, pos}, func(a, b footer) int {
		if a.id != b.id {
			if a.id < b.id {
				return -1
			}
			return 1
		}
		return a.pos - b.pos
	})
	return i
}

// at says whether index i is a footer of id, and where.
func (f footers) at(i int, id uint32) (pos int, ok bool) {
	if i < 0 || i >= len(f) || f[i].id != id {
		return 0, false
	}
	return f[i].pos, true
}
