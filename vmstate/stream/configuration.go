package stream

import (
	"encoding/binary"
	"fmt"
)

// The names of the configuration's subsections.
const (
	subPageBits     = "configuration/target-page-bits"
	subCapabilities = "configuration/capabilities"
	subUUID         = "configuration/uuid"
)

// CapabilityIgnoreShared is the migration capability under which memory that both QEMUs map from one
// file is left out of the stream. It is the one capability that a loading QEMU compares with its own.
const CapabilityIgnoreShared = "x-ignore-shared"

// capabilityMappedRAM makes a stream that is not one: pages lie at fixed places of a file.
const capabilityMappedRAM = "mapped-ram"

// Configuration is what the source says of itself before anything else.
type Configuration struct {
	Machine      string    // name of the machine's class: "pc-q35-7.2", never an alias
	PageBits     int       // of the target's page size; 0 if not sent, as on x86
	Capabilities []string  // those that must agree on both sides
	UUID         *[16]byte // sent only with the capability validate-uuid
}

// IgnoreShared says whether shared blocks are left out, and each block's address is in the table.
func (c *Configuration) IgnoreShared() bool { return c.has(CapabilityIgnoreShared) }

func (c *Configuration) has(capability string) bool {
	if c == nil {
		return false
	}
	for _, name := range c.Capabilities {
		if name == capability {
			return true
		}
	}
	return false
}

// append writes the section, its kind included.
func (c *Configuration) append(b []byte) []byte {
	b = append(b, byte(KindConfiguration))
	b = binary.BigEndian.AppendUint32(b, uint32(len(c.Machine)))
	b = append(b, c.Machine...)
	if c.PageBits != 0 {
		b = appendSubsection(b, subPageBits)
		b = binary.BigEndian.AppendUint32(b, uint32(c.PageBits))
	}
	if len(c.Capabilities) > 0 {
		b = appendSubsection(b, subCapabilities)
		b = binary.BigEndian.AppendUint32(b, uint32(len(c.Capabilities)))
		for _, name := range c.Capabilities {
			b = appendCounted(b, name)
		}
	}
	if c.UUID != nil {
		b = appendSubsection(b, subUUID)
		b = append(b, c.UUID[:]...)
	}
	return b
}

func appendSubsection(b []byte, name string) []byte {
	b = append(b, byte(KindSubsection))
	b = appendCounted(b, name)
	return binary.BigEndian.AppendUint32(b, 1) // the version of each of them
}

// check says what QEMU could not have sent or would not load.
func (c *Configuration) check() error {
	if !printable([]byte(c.Machine)) {
		return fmt.Errorf("cannot compose a stream for machine %q: give the name of the machine's class, such as pc-q35-7.2", c.Machine)
	}
	if c.PageBits != 0 && c.PageBits != 12 {
		return fmt.Errorf("cannot compose a stream for pages of 2^%d bytes: only 12 is written here, and 0 where QEMU sends none", c.PageBits)
	}
	return nil
}

// readConfiguration reads the section that follows its kind at c, and leaves c behind it.
func readConfiguration(c *cursor) (*Configuration, error) {
	cfg := new(Configuration)
	at := c.pos
	name := c.take(int(c.u32()))
	if c.short || !printable(name) {
		return nil, formatError(at, KindConfiguration.String(), "no machine name here")
	}
	cfg.Machine = string(name)
	for c.pos < c.end && Kind(c.b[c.pos]) == KindSubsection {
		at = c.pos
		c.pos++
		sub := string(c.counted())
		version := c.u32()
		if !c.short && version != 1 {
			return nil, formatError(at, KindConfiguration.String(), "subsection %q has version %d, known is 1", sub, version)
		}
		if err := cfg.readSubsection(c, at, sub); err != nil {
			return nil, err
		}
		if c.short {
			return nil, formatError(at, KindConfiguration.String(), "subsection %q is cut off", sub)
		}
	}
	return cfg, nil
}

func (c *Configuration) readSubsection(in *cursor, at int, name string) error {
	switch name {
	case subPageBits:
		bits := in.u32()
		if !in.short && bits > 30 {
			return formatError(at, KindConfiguration.String(), "pages of 2^%d bytes", bits)
		}
		c.PageBits = int(bits)
	case subCapabilities:
		n := in.u32()
		for i := uint32(0); i < n && !in.short; i++ {
			capability := in.counted()
			if !in.short && !printable(capability) {
				return formatError(at, KindConfiguration.String(), "capability %d has no readable name", i)
			}
			c.Capabilities = append(c.Capabilities, string(capability))
		}
	case subUUID:
		if raw := in.take(16); raw != nil {
			c.UUID = (*[16]byte)(append([]byte(nil), raw...))
		}
	default:
		return formatError(at, KindConfiguration.String(), "subsection %q is not known", name)
	}
	return nil
}
