package stream

import (
	"encoding/binary"
	"encoding/json"
)

// Stream is a whole stream, taken apart. It refers to the bytes that it was read from.
type Stream struct {
	Configuration *Configuration // nil if there is none, as in what xen-save-devices-state writes
	Sections      []Section      // in order, commands included
	Blocks        []BlockStats   // in the order of the block table
	Description   []byte         // JSON; nil if there is none

	b     []byte
	addrs bool // the block table carries addresses
}

// Parse takes a whole stream apart: what `migrate` or xen-save-devices-state wrote, or a Composer. The
// result refers to b, which must not be changed while it is used. It allocates less than len(b) for a
// stream of a QEMU, and at most a hundred times as much for one made of nothing but the shortest sections.
//
// Errors are *FormatError; one that wraps ErrAmbiguous means that the stream is not broken.
func Parse(b []byte) (*Stream, error) {
	p := parser{b: b, eof: len(b) - 1, ids: map[uint32]int{}, budget: stepsPerByte*len(b) + 1<<16}
	start, err := p.head()
	if err != nil {
		return nil, err
	}
	p.tail()
	sections, err := p.search(start)
	if err != nil {
		return nil, err
	}
	s := &Stream{Configuration: p.config, Sections: sections, Description: p.description, b: b, addrs: p.config.IgnoreShared()}
	if err := s.count(); err != nil {
		return nil, err
	}
	return s, nil
}

// Devices takes apart what xen-save-devices-state wrote, or any other stream, and gives its device
// sections (FULL) in order. Errors as of Parse.
func Devices(b []byte) ([]Section, error) {
	s, err := Parse(b)
	if err != nil {
		return nil, err
	}
	return s.Devices(), nil
}

// Devices are the stream's device sections (FULL) in order.
func (s *Stream) Devices() []Section {
	devices := make([]Section, 0, len(s.Sections))
	for i := range s.Sections {
		if s.Sections[i].Kind == KindFull {
			devices = append(devices, s.Sections[i])
		}
	}
	return devices
}

// Payload is what the section holds, a piece of the stream's own bytes.
func (s *Stream) Payload(section Section) []byte {
	return s.b[section.Payload.Start:section.Payload.End:section.Payload.End]
}

// head reads header and configuration.
func (p *parser) head() (start int, err error) {
	if len(p.b) < headerBytes+1 {
		return 0, formatError(len(p.b), "header", "ends before the first section")
	}
	if magic := binary.BigEndian.Uint32(p.b); magic != Magic {
		return 0, formatError(0, "header", "magic is 0x%08x, a migration stream has 0x%08x", magic, Magic)
	}
	if version := binary.BigEndian.Uint32(p.b[4:]); version != Version {
		return 0, formatError(4, "header", "version is %d, known is %d", version, Version)
	}
	if Kind(p.b[headerBytes]) != KindConfiguration {
		return headerBytes, nil
	}
	c := cursor{b: p.b, pos: headerBytes + 1, end: len(p.b)}
	if p.config, err = readConfiguration(&c); err != nil {
		return 0, err
	}
	if p.config.PageBits != 0 && p.config.PageBits != 12 {
		return 0, formatError(headerBytes, KindConfiguration.String(), "pages of 2^%d bytes are not read here", p.config.PageBits)
	}
	if p.config.has(capabilityMappedRAM) {
		return 0, formatError(headerBytes, KindConfiguration.String(), "the file holds RAM by place (%s), not as a stream", capabilityMappedRAM)
	}
	return c.pos, nil
}

// tail looks for a description at the end, which says where the EOF is and which devices precede it.
// A description that is no JSON, or names no devices, just says where the EOF is.
func (p *parser) tail() {
	const prefix = 1 + 4 // kind and length
	n := len(p.b)
	if n == 0 || p.b[n-1] != '}' {
		return
	}
	for at := n - prefix - 1; at > headerBytes; at-- {
		if Kind(p.b[at]) != KindDescription || Kind(p.b[at-1]) != KindEOF || p.b[at+prefix] != '{' {
			continue
		}
		if int64(binary.BigEndian.Uint32(p.b[at+1:])) != int64(n-at-prefix) {
			continue
		}
		p.eof, p.description = at-1, p.b[at+prefix:n:n]
		break
	}
	var listed struct {
		Devices []struct {
			Name     string `json:"name"`
			Instance uint32 `json:"instance_id"`
		} `json:"devices"`
	}
	if p.description == nil || json.Unmarshal(p.description, &listed) != nil {
		return
	}
	for _, device := range listed.Devices {
		p.listed = append(p.listed, Identity{Name: device.Name, Instance: device.Instance})
	}
}
