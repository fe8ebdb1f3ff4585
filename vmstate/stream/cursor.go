package stream

import "encoding/binary"

// cursor reads big-endian values from b up to end. Once something does not fit, short is set and all
// further reads give zero, so that a caller may check once after several reads.
type cursor struct {
	b     []byte
	pos   int
	end   int
	short bool
}

func (c *cursor) take(n int) []byte {
	if c.short || n < 0 || n > c.end-c.pos {
		c.short = true
		return nil
	}
	s := c.b[c.pos : c.pos+n : c.pos+n]
	c.pos += n
	return s
}

func (c *cursor) u8() uint8 {
	if s := c.take(1); s != nil {
		return s[0]
	}
	return 0
}

func (c *cursor) u16() uint16 {
	if s := c.take(2); s != nil {
		return binary.BigEndian.Uint16(s)
	}
	return 0
}

func (c *cursor) u32() uint32 {
	if s := c.take(4); s != nil {
		return binary.BigEndian.Uint32(s)
	}
	return 0
}

func (c *cursor) u64() uint64 {
	if s := c.take(8); s != nil {
		return binary.BigEndian.Uint64(s)
	}
	return 0
}

// counted reads a string that its length in one byte precedes.
func (c *cursor) counted() []byte { return c.take(int(c.u8())) }

// printable says whether s could be a name that QEMU gives to a section, a block or a capability.
func printable(s []byte) bool {
	for _, ch := range s {
		if ch < 0x20 || ch > 0x7e {
			return false
		}
	}
	return len(s) > 0
}

func appendCounted(b []byte, s string) []byte { return append(append(b, byte(len(s))), s...) }
