package stream

import "slices"

// stepsPerByte bounds the work: a stream that needs more has been made to need it.
const stepsPerByte = 16

// parser finds the sections. Header, configuration, commands and the "ram" section tell their own
// length; any other payload ends where its footer lies, and a payload may hold bytes that look like one.
// So the parser goes ahead with the first footer that fits and, where that leads to nothing, comes back
// and takes the next: a depth-first search whose path is the list of sections so far. It goes on after
// a success, to be sure that there is no second way.
type parser struct {
	b           []byte
	eof         int // where the EOF must be
	config      *Configuration
	description []byte
	listed      []Identity // the devices that the description names; nil if it names none

	path    []step
	ids     map[uint32]int // of the START and FULL sections on the path, where
	footers footers        // built when the first payload of unknown length is met
	indexed bool
	devices int // FULL sections on the path
	budget  int // steps left
	deepest *FormatError
}

// step is a section on the path.
type step struct {
	Section        // without its name
	name    []byte // of the section
	next    int    // index in footers of the next end to try; -1 if the length is known
	block   []byte // RAM: the block of its last page
	advised bool   // postcopy with several page sizes was announced, here or before
}

// search finds the one list of sections from start to the EOF.
func (p *parser) search(start int) ([]Section, error) {
	var found []Section
	for pos := start; ; {
		if p.budget--; p.budget < 0 {
			return nil, p.ambiguous(pos, "more ways to read it than can be tried")
		}
		switch {
		case pos == p.eof && p.complete():
			if found != nil {
				return nil, p.ambiguous(p.difference(found), "the devices' sections are not told apart by their bytes")
			}
			found = p.sections()
		case pos != p.eof && p.advance(pos):
			pos = p.path[len(p.path)-1].end()
			continue
		}
		end, ok := p.back()
		if !ok {
			break
		}
		pos = end
	}
	if found != nil {
		return found, nil
	}
	if p.deepest == nil {
		p.fail(start, nil, "no sections")
	}
	return nil, p.deepest
}

// complete says whether the path may end at the EOF.
func (p *parser) complete() bool {
	if p.b[p.eof] != byte(KindEOF) {
		return p.fail(p.eof, nil, "the stream's last byte is 0x%02x instead of an EOF: it is cut off", p.b[p.eof])
	}
	if p.listed != nil && p.devices != len(p.listed) {
		return p.fail(p.eof, nil, "%d devices, but the description names %d", p.devices, len(p.listed))
	}
	return true
}

// advance reads the section at pos onto the path.
func (p *parser) advance(pos int) bool {
	c := &cursor{b: p.b, pos: pos, end: p.eof}
	s := step{next: -1}
	if n := len(p.path); n > 0 {
		s.block, s.advised = p.path[n-1].block, p.path[n-1].advised
	}
	s.Offset, s.Kind = pos, Kind(c.u8())
	var ok bool
	switch s.Kind {
	case KindCommand:
		ok = p.command(c, &s)
	case KindStart, KindFull:
		ok = p.header(c, &s) && p.payload(c, &s)
	case KindPart, KindEnd:
		ok = p.continued(c, &s) && p.payload(c, &s)
	case KindEOF:
		return p.fail(pos, nil, "%d bytes follow the EOF that are no description", len(p.b)-pos-1)
	default:
		return p.fail(pos, nil, "0x%02x does not start a section", uint8(s.Kind))
	}
	if !ok {
		return false
	}
	p.push(s)
	return true
}

func (p *parser) push(s step) {
	if s.Kind == KindStart || s.Kind == KindFull {
		p.ids[s.ID] = len(p.path)
	}
	if s.Kind == KindFull {
		p.devices++
	}
	if len(p.path) == cap(p.path) {
		p.path = slices.Grow(p.path, max(64, len(p.path))) // doubling keeps the sum of what is allocated low
	}
	p.path = append(p.path, s)
}

func (p *parser) pop() {
	s := &p.path[len(p.path)-1]
	if s.Kind == KindStart || s.Kind == KindFull {
		delete(p.ids, s.ID)
	}
	if s.Kind == KindFull {
		p.devices--
	}
	p.path = p.path[:len(p.path)-1]
}

// back gives up the end of the last section whose length was guessed and takes its next possible one.
func (p *parser) back() (end int, ok bool) {
	for len(p.path) > 0 {
		s := &p.path[len(p.path)-1]
		if s.next >= 0 {
			if pos, ok := p.footers.at(s.next, s.ID); ok {
				s.next++
				s.Payload.End = pos
				return s.end(), true
			}
		}
		p.pop()
	}
	return 0, false
}

// fail keeps the error that lies furthest into the stream: the one that a reader of it wants to see.
// It names s or, if that is nil, the section before.
func (p *parser) fail(at int, s *step, format string, args ...any) bool {
	if p.deepest == nil || at > p.deepest.Offset {
		p.deepest = formatError(at, p.place(s), format, args...)
	}
	return false
}

func (p *parser) ambiguous(at int, reason string) error {
	e := formatError(at, p.place(nil), "%s: %s; hand the guest over by QEMU's own migration instead", ErrAmbiguous, reason)
	e.Err = ErrAmbiguous
	return e
}

// place names a section, or what lies behind the last one.
func (p *parser) place(s *step) string {
	prefix := ""
	if s == nil {
		if len(p.path) == 0 {
			return "first section"
		}
		prefix, s = "after ", &p.path[len(p.path)-1]
	}
	named := s.Section
	named.Name = string(s.name)
	return prefix + named.String()
}

// difference is where the path leaves another list of sections.
func (p *parser) difference(other []Section) int {
	for i := range p.path {
		if i >= len(other) || other[i].Offset != p.path[i].Offset || other[i].Payload != p.path[i].Payload {
			return p.path[i].Payload.End
		}
	}
	return p.eof
}

func (p *parser) sections() []Section {
	sections := make([]Section, len(p.path))
	for i := range p.path {
		s := &p.path[i]
		sections[i] = s.Section
		if start := p.ids[s.ID]; s.Kind == KindPart || s.Kind == KindEnd {
			sections[i].Name = sections[start].Name
		} else {
			sections[i].Name = string(s.name)
		}
	}
	return sections
}
