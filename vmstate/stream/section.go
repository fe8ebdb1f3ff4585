package stream

import "fmt"

// Range is a piece of a stream: the bytes from Start up to, but not including, End.
type Range struct{ Start, End int }

// Len is the number of bytes in the range.
func (r Range) Len() int { return r.End - r.Start }

// Identity is how two QEMUs agree on which device a section belongs to. The version is the source's;
// the target takes any that is not newer than its own.
type Identity struct {
	Name     string // "0000:00:01.0/vga": path of the device, if its bus has such, and type of its state
	Instance uint32 // tells devices of one name apart
	Version  uint32
}

func (i Identity) String() string { return fmt.Sprintf("%s/%d v%d", i.Name, i.Instance, i.Version) }

// Section is one section of a stream.
type Section struct {
	Identity         // of PART and END that of their START; empty for a COMMAND
	ID       uint32  // ties PART, END and footer to their START or FULL; the source numbers them
	Kind     Kind    // START, PART, END, FULL or COMMAND
	Command  Command // of a COMMAND
	Offset   int     // of the section's first byte, its kind
	Payload  Range   // without header and footer; of a COMMAND its data
}

// String names the section as errors do.
func (s Section) String() string {
	if s.Kind == KindCommand {
		return fmt.Sprintf("COMMAND %s", s.Command)
	}
	return fmt.Sprintf("%s section %q instance %d (id 0x%x)", s.Kind, s.Name, s.Instance, s.ID)
}

// end is where the section ends, its footer included.
func (s *Section) end() int {
	if s.Kind == KindCommand {
		return s.Payload.End
	}
	return s.Payload.End + footerBytes
}

// ramName is the one section whose payload is read here, page by page.
const ramName = "ram"
