package stream

// command reads a COMMAND.
func (p *parser) command(c *cursor, s *step) bool {
	s.Command = Command(c.u16())
	n := int(c.u16())
	s.Payload.Start = c.pos
	data := c.take(n)
	s.Payload.End = c.pos
	want, known := s.Command.length()
	switch {
	case c.short:
		return p.fail(s.Offset, s, "is cut off")
	case !known:
		return p.fail(s.Offset, s, "is not known (%d bytes)", n)
	case want != anyLength && n != want:
		return p.fail(s.Offset, s, "has %d bytes of data, should have %d", n, want)
	case s.Command == CommandPackaged:
		return p.fail(s.Offset, s, "the devices' state is packaged, as postcopy does; only precopy is read here")
	case s.Command == CommandPostcopyAdvise && n >= 8:
		sizes := cursor{b: data, end: n}
		s.advised = sizes.u64() != PageBytes
	}
	return true
}

// header reads what START and FULL begin with.
func (p *parser) header(c *cursor, s *step) bool {
	s.ID = c.u32()
	s.name = c.counted()
	s.Instance, s.Version = c.u32(), c.u32()
	s.Payload.Start = c.pos
	if c.short {
		return p.fail(s.Offset, nil, "ends inside the header of a %s section", s.Kind)
	}
	if !printable(s.name) {
		return p.fail(s.Offset, nil, "a %s section without a readable name", s.Kind)
	}
	if other, taken := p.ids[s.ID]; taken {
		return p.fail(s.Offset, s, "has the id of %q", p.path[other].name)
	}
	if s.Kind == KindFull && p.listed != nil {
		if p.devices >= len(p.listed) {
			return p.fail(s.Offset, s, "is not in the description")
		}
		if want := &p.listed[p.devices]; want.Name != string(s.name) || want.Instance != s.Instance {
			return p.fail(s.Offset, s, "the description has %q instance %d here", want.Name, want.Instance)
		}
	}
	return true
}

// continued reads what PART and END begin with, and finds their START.
func (p *parser) continued(c *cursor, s *step) bool {
	s.ID = c.u32()
	s.Payload.Start = c.pos
	if c.short {
		return p.fail(s.Offset, nil, "ends inside the header of a %s section", s.Kind)
	}
	at, ok := p.ids[s.ID]
	if !ok || p.path[at].Kind != KindStart {
		return p.fail(s.Offset, nil, "a %s section with id 0x%x, which no START had", s.Kind, s.ID)
	}
	start := &p.path[at]
	s.name, s.Instance, s.Version = start.name, start.Instance, start.Version
	return true
}

// payload finds where the payload ends, and checks the footer there.
func (p *parser) payload(c *cursor, s *step) bool {
	if string(s.name) == ramName && s.Kind != KindFull {
		return p.ram(c, s) && p.footer(c, s)
	}
	if !p.indexed {
		p.footers, p.indexed = findFooters(p.b, s.Payload.Start, p.eof), true
	}
	i := p.footers.first(s.ID, s.Payload.Start)
	pos, ok := p.footers.at(i, s.ID)
	if !ok {
		return p.fail(s.Offset, s, "has no footer with a section or the final EOF behind it: the stream is cut off, goes on after its end, or comes from a machine type without footers")
	}
	s.next, s.Payload.End = i+1, pos
	return true
}

// ram walks over the payload of a RAM section.
func (p *parser) ram(c *cursor, s *step) bool {
	if s.Version != ramSectionVersion {
		return p.fail(s.Offset, s, "known is version %d", ramSectionVersion)
	}
	r := ramReader{cursor: *c, addrs: p.config.IgnoreShared(), advised: s.advised, block: s.block}
	for {
		if p.budget--; p.budget < 0 {
			return false // the search says so
		}
		rec, err := r.next()
		if err != nil {
			return p.fail(err.Offset, s, "%s", err.Reason)
		}
		if rec.flag == FlagEOS {
			break
		}
	}
	*c, s.block, s.Payload.End = r.cursor, r.block, r.pos
	return true
}

// footer checks the footer that must be at c.
func (p *parser) footer(c *cursor, s *step) bool {
	if Kind(c.u8()) != KindFooter || c.u32() != s.ID || c.short {
		return p.fail(s.Payload.End, s, "no footer here: the stream is broken, or comes from a machine type without footers")
	}
	return true
}
