package stream

import "iter"

// BlockStats is a block of the stream's table and what was sent of it. A block that was resized
// meanwhile has the size that came last.
type BlockStats struct {
	Block
	Pages int // sent as they are; a page sent twice counts twice
	Zero  int // sent as zeros
	Other int // sent as a difference (XBZRLE) or compressed
}

// count fills Blocks, and checks that each page lies in a block of the table.
func (s *Stream) count() error {
	index := map[string]int{}
	r := ramReader{addrs: s.addrs}
	for i := range s.Sections {
		section := &s.Sections[i]
		if section.Name != ramName || section.Kind == KindFull {
			continue
		}
		r.cursor = cursor{b: s.b, pos: section.Payload.Start, end: section.Payload.End}
		for r.pos < r.end {
			at := r.pos
			rec, err := r.next()
			if err != nil {
				return err
			}
			switch rec.flag {
			case flagMemSize:
				s.table(index, r.entries(rec.data))
			case FlagZero, FlagPage, flagXBZRLE, flagCompressed:
				n, ok := index[string(r.block)]
				if !ok || rec.offset >= s.Blocks[n].Used {
					return formatError(at, section.String(), "a page at %d of block %q, which the block table does not have", rec.offset, r.block)
				}
				s.Blocks[n].add(rec.flag)
			}
		}
	}
	return nil
}

func (s *Stream) table(index map[string]int, blocks []Block) {
	for _, block := range blocks {
		if n, ok := index[block.Name]; ok {
			s.Blocks[n].Used = block.Used
			continue
		}
		index[block.Name] = len(s.Blocks)
		s.Blocks = append(s.Blocks, BlockStats{Block: block})
	}
}

func (b *BlockStats) add(flag uint64) {
	switch flag {
	case FlagZero:
		b.Zero++
	case FlagPage:
		b.Pages++
	default:
		b.Other++
	}
}

// Pages gives all pages of the stream in order. A page may come more than once: the last one counts.
func (s *Stream) Pages() iter.Seq[Page] {
	return func(yield func(Page) bool) {
		names := map[string]string{}
		for i := range s.Blocks {
			names[s.Blocks[i].Name] = s.Blocks[i].Name
		}
		r := ramReader{addrs: s.addrs}
		for i := range s.Sections {
			section := &s.Sections[i]
			if section.Name != ramName || section.Kind == KindFull {
				continue
			}
			r.cursor = cursor{b: s.b, pos: section.Payload.Start, end: section.Payload.End}
			for r.pos < r.end {
				rec, err := r.next()
				if err != nil {
					return // cannot be: the same bytes were read before
				}
				if rec.flag == flagMemSize || rec.flag == FlagEOS || rec.flag == flagMultifdFlush {
					continue
				}
				page := Page{names[string(r.block)], rec.offset, rec.data, rec.flag == flagXBZRLE || rec.flag == flagCompressed}
				if !yield(page) {
					return
				}
			}
		}
	}
}
