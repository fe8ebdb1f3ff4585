package stream

import (
	"bytes"
	"encoding/binary"
)

// Flags of a RAM word (migration/ram.h); they take the bits of the offset below the page size.
const (
	FlagZero         = 0x02
	flagMemSize      = 0x04
	FlagPage         = 0x08
	FlagEOS          = 0x10
	FlagContinue     = 0x20
	flagXBZRLE       = 0x40
	flagHook         = 0x80
	flagCompressed   = 0x100
	flagMultifdFlush = 0x200
	flagMask         = PageBytes - 1
)

// Block is one RAM block of a guest: memory that QEMU knows by name. The table at the start of the
// "ram" section lists all of them, those whose pages are not sent included.
type Block struct {
	Name string
	Used uint64 // bytes; a multiple of the page size

	// Addr is the block's address inside the memory region that contains it, which is not an address
	// of the guest. It is in the stream only under x-ignore-shared, and the loading QEMU compares it
	// only for blocks that it does not accept pages of.
	Addr uint64

	// Shared blocks are in the table and have no pages: both QEMUs map them from one file. It says
	// what to write; it cannot be read from a stream, and is false in what the reader gives.
	Shared bool
}

// Page is one page of a RAM section.
type Page struct {
	Block  string
	Offset uint64 // in the block, bytes
	Data   []byte // PageBytes of them, part of the stream's own memory; nil for a page of zeros
	Packed bool   // sent as a difference (XBZRLE) or compressed: Data is then that, unexpanded
}

// record is one item of a RAM section's payload: a word and what belongs to it.
type record struct {
	flag   uint64 // one of the flags, without FlagContinue
	offset uint64 // of the page; of a flagMemSize record, the total
	data   []byte // of the page; of a flagMemSize record, its entries
}

// ramReader walks over a RAM section's payload. The block that FlagContinue means is kept across
// sections, as QEMU does.
type ramReader struct {
	cursor
	addrs   bool   // the table's entries carry addresses
	advised bool   // postcopy was announced: entries may carry page sizes
	block   []byte // name of the block that the last page belonged to
}

// next reads one record. The payload ends with a record whose flag is FlagEOS.
func (r *ramReader) next() (record, *FormatError) {
	at := r.pos
	word := r.u64()
	rec := record{flag: word & (flagMask &^ FlagContinue), offset: word &^ flagMask}
	if r.short {
		return rec, r.fail(at, "ends inside a word")
	}
	switch rec.flag {
	case FlagZero, FlagPage, flagXBZRLE, flagCompressed:
		if word&FlagContinue == 0 {
			if r.block = r.counted(); r.short || !printable(r.block) {
				return rec, r.fail(at, "a page without the name of its block")
			}
		} else if r.block == nil {
			return rec, r.fail(at, "a page of the same block as before, and no page before it")
		}
	}
	switch rec.flag {
	case flagMemSize:
		return r.table(at, rec)
	case FlagZero:
		if fill := r.u8(); fill != 0 && !r.short {
			return rec, r.fail(at, "a zero page filled with %d", fill)
		}
	case FlagPage:
		rec.data = r.take(PageBytes)
	case flagXBZRLE:
		r.u8()
		rec.data = r.take(int(r.u16()))
	case flagCompressed:
		rec.data = r.take(int(r.u32()))
	case FlagEOS, flagMultifdFlush:
	default:
		return rec, r.fail(at, "flags 0x%x are not known", word&flagMask)
	}
	if r.short {
		return rec, r.fail(at, "is cut off")
	}
	return rec, nil
}

// table walks over the entries of a flagMemSize record.
func (r *ramReader) table(at int, rec record) (record, *FormatError) {
	if r.advised {
		return rec, r.fail(at, "announced as postcopy with pages of several sizes, whose table is not read here")
	}
	start, left := r.pos, rec.offset
	for left > 0 {
		at = r.pos
		block, ok := r.entry()
		if !ok || block.Used > left || block.Used%PageBytes != 0 {
			return rec, r.fail(at, "no entry of the block table here; %d bytes of RAM are not accounted for", left)
		}
		left -= block.Used
	}
	rec.data = r.b[start:r.pos]
	return rec, nil
}

// entry reads one entry of the block table.
func (r *ramReader) entry() (Block, bool) {
	name := r.counted()
	block := Block{Used: r.u64()}
	if r.addrs {
		block.Addr = r.u64()
	}
	if r.short || !printable(name) {
		return Block{}, false
	}
	block.Name = string(name)
	return block, true
}

// entries reads the table's raw entries again, once they are known to be whole.
func (r *ramReader) entries(raw []byte) []Block {
	in := ramReader{cursor: cursor{b: raw, end: len(raw)}, addrs: r.addrs}
	var blocks []Block
	for in.pos < in.end {
		block, ok := in.entry()
		if !ok {
			break
		}
		blocks = append(blocks, block)
	}
	return blocks
}

func (r *ramReader) fail(at int, format string, args ...any) *FormatError {
	return formatError(at, `section "ram"`, format, args...)
}

// appendTable writes a flagMemSize record. The loading QEMU takes any number of them, in any part of
// the section, and of any subset of its blocks.
func appendTable(b []byte, blocks []Block, addrs bool) []byte {
	var total uint64
	for i := range blocks {
		total += blocks[i].Used
	}
	b = binary.BigEndian.AppendUint64(b, total|flagMemSize)
	for i := range blocks {
		b = appendCounted(b, blocks[i].Name)
		b = binary.BigEndian.AppendUint64(b, blocks[i].Used)
		if addrs {
			b = binary.BigEndian.AppendUint64(b, blocks[i].Addr)
		}
	}
	return b
}

// appendPage writes one page; block is empty for the same block as the page before in this section.
func appendPage(b []byte, block string, offset uint64, page []byte) []byte {
	flags := uint64(FlagPage)
	zero := isZero(page)
	if zero {
		flags = FlagZero
	}
	if block == "" {
		b = binary.BigEndian.AppendUint64(b, offset|flags|FlagContinue)
	} else {
		b = appendCounted(binary.BigEndian.AppendUint64(b, offset|flags), block)
	}
	if zero {
		return append(b, 0)
	}
	return append(b, page...)
}

// isZero compares the page with itself, shifted by one byte: one pass of the fastest comparison.
func isZero(page []byte) bool { return page[0] == 0 && bytes.Equal(page[:len(page)-1], page[1:]) }
