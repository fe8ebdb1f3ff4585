package stream

// What postcopy_start puts into the package behind the devices, as a mark for whoever reads traces: the target answers it once it has read them.
const pingLoaded = 3

// next reads one header, or one record, at c.
func (s *Sieve) next(c *cursor) verdict {
	switch s.state {
	case sieveHead:
		if c.u32() != Magic || c.u32() != Version {
			return unknown
		}
		s.state = sieveSection
		return pass
	case sieveSection:
		return s.section(c)
	case sieveWord:
		return s.word(c)
	case sieveTable:
		return s.entry(c)
	case sieveFooter:
		if Kind(c.u8()) != KindFooter || c.u32() != s.ram {
			return unknown
		}
		s.state = sieveSection
		return pass
	}
	return pass
}

func (s *Sieve) section(c *cursor) verdict {
	switch Kind(c.u8()) {
	case KindConfiguration:
		cfg, err := readConfiguration(c)
		if c.pos == c.end { // a subsection may follow
			c.short = true
		}
		if err != nil || cfg.IgnoreShared() {
			return unknown
		}
		return pass
	case KindCommand:
		return s.command(c)
	case KindStart:
		id, name := c.u32(), string(c.counted())
		c.u32()
		if version := c.u32(); name != ramName || version != ramSectionVersion || len(s.blocks) > 0 {
			return unknown
		}
		s.ram, s.state = id, sieveWord
		return pass
	case KindPart, KindEnd:
		if c.u32() != s.ram || len(s.blocks) == 0 {
			return unknown
		}
		s.state = sieveWord
		return pass
	case KindEOF:
		return s.end()
	}
	return unknown
}

func (s *Sieve) command(c *cursor) verdict {
	command, length := Command(c.u16()), int(c.u16())
	if command != CommandPackaged {
		if c.short {
			return pass
		}
		s.through = length
		return pass
	}
	n := c.u32()
	if c.short {
		return pass
	}
	if length != 4 || s.packaged {
		return unknown
	}
	s.through, s.packaged = int(n), len(s.blocks) > 0
	return pass
}

// end is the end of the stream. After it nothing can be given out. A target that has it takes userfaultfd off its memory, and with that all who wait for a
// page go on: but only once its main thread has loaded the devices, and that may itself wait for a page (main_thread_load_event).
func (s *Sieve) end() verdict {
	s.ended = true
	if s.held > 0 && !s.loaded {
		return wait
	}
	s.state = sievePassing
	return pass
}

func (s *Sieve) word(c *cursor) verdict {
	word := c.u64()
	offset := word &^ flagMask
	switch word & (flagMask &^ FlagContinue) {
	case flagMemSize:
		if s.packaged || len(s.blocks) > 0 {
			return unknown
		}
		if s.total = offset; s.total > 0 {
			s.state = sieveTable
		}
		return pass
	case FlagEOS:
		s.state = sieveFooter
		return pass
	case FlagPage:
		return s.page(c, word, offset/PageBytes)
	case FlagZero:
		return s.zero(c, word, offset/PageBytes)
	}
	return unknown
}

// entry reads one entry of the block table.
func (s *Sieve) entry(c *cursor) verdict {
	name, used := c.counted(), c.u64()
	if c.short {
		return pass
	}
	if !printable(name) || used > s.total || used%PageBytes != 0 {
		return unknown
	}
	s.total -= used
	s.blocks = append(s.blocks, &sieved{name: string(name), pages: used / PageBytes, kept: bitmap{}, early: bitmap{}})
	if s.total == 0 {
		s.state = sieveWord
	}
	return pass
}

// blockOf finds the block of a page, whose name follows its word unless it is that of the page before.
func (s *Sieve) blockOf(c *cursor, word, page uint64) *sieved {
	block := s.in
	if word&FlagContinue == 0 {
		block = s.block(c.counted())
	}
	if block == nil || page >= block.pages {
		return nil
	}
	return block
}

func (s *Sieve) block(name []byte) *sieved {
	for _, b := range s.blocks {
		if b.name == string(name) {
			return b
		}
	}
	return nil
}

func (s *Sieve) page(c *cursor, word, page uint64) verdict {
	block := s.blockOf(c, word, page)
	if c.short {
		return pass
	}
	if block == nil {
		return unknown
	}
	if block.kept.has(page) { // no QEMU sends a page twice
		block.kept.clear(page)
		s.held--
	}
	s.through = PageBytes
	return s.goOn(block, word)
}

// goOn lets a page pass, with the name of its block if the target would take it for another's.
func (s *Sieve) goOn(block *sieved, word uint64) verdict {
	named := s.out == block
	s.in, s.out = block, block
	if word&FlagContinue != 0 && !named {
		return rename
	}
	return pass
}

func (s *Sieve) zero(c *cursor, word, page uint64) verdict {
	block := s.blockOf(c, word, page)
	fill := c.u8()
	if c.short {
		return pass
	}
	if block == nil || fill != 0 {
		return unknown
	}
	s.stats.Zeroes++
	if !s.begun || !s.packaged || s.aside != "" || block.early.has(page) {
		return s.goOn(block, word)
	}
	s.in = block
	if !block.kept.has(page) {
		block.kept.set(page)
		s.stats.Kept++
		s.held++
	}
	return keep
}

// Heard takes in what the target has said.
func (s *Sieve) Heard(m Message) {
	switch m.Type {
	case MessagePong:
		s.loaded = s.loaded || m.Value == pingLoaded
	case MessageReqPagesID:
		s.asked = s.block([]byte(m.Block))
		s.request(m.Offset, uint64(m.Length))
	case MessageReqPages:
		s.request(m.Offset, uint64(m.Length))
	}
}

// request notes what the target waits for. What the source has not sent yet must pass when it comes.
func (s *Sieve) request(offset, length uint64) {
	block := s.asked
	if block == nil {
		return
	}
	for page := offset / PageBytes; page < min(block.pages, (offset+length+PageBytes-1)/PageBytes); page++ {
		if !block.kept.has(page) {
			block.early.set(page)
			continue
		}
		block.kept.clear(page)
		s.held--
		s.owed = append(s.owed, owing{block, page})
	}
}

// Waits tells whether the end of the stream is held back until the target has read the devices. Until then it may still ask.
func (s *Sieve) Waits() bool { return s.state == sieveSection && s.held > 0 && !s.loaded && s.ended }
