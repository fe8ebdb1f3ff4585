package stream

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// CPRState is what a source of cpr-transfer sends ahead, for the target to make its machine from: which descriptors of memory and devices it gives.
// The descriptors themselves travel beside it (SCM_RIGHTS, unix(7)), each with a byte of its own. As of 10.0.2 to 11.1.3 [migration/cpr.c]:
//
//	be32 0x51435052 "QCPR", be32 1
//	any number of: 0x01, be32 length of the name with its NUL, name, be32 id, 0x20 (the descriptor's byte)
//	0x00
//	since 10.1: 0x05, string "CprState/vfio devices", be32 1, any number of devices each behind 0x01, 0x00
//	then the source shuts its end for writing
//
// A target before 10.1 fails on what is behind the list, though it is empty in a guest without such devices. One of 10.1 and later does without it.
type CPRState struct {
	raw         []byte
	end         int // of the list
	descriptors []CPRDescriptor
}

// CPRDescriptor is a descriptor that the source gives.
type CPRDescriptor struct {
	Name string // of the RAM block, where it is one
	ID   int32  // tells those with the same name apart; 0 for RAM blocks
	At   int    // offset of its byte
}

const (
	cprMagic      = 0x51435052
	cprVersion    = 1
	cprDescriptor = ' '
)

// noVFIO is what a QEMU of 10.1 and later without devices of VFIO has behind the list.
const noVFIO = "\x05\x15CprState/vfio devices\x00\x00\x00\x01\x00"

// ParseCPRState reads all that a source has sent before it shut its end; the result keeps b. Errors are *FormatError.
func ParseCPRState(b []byte) (CPRState, error) {
	s := CPRState{raw: b}
	bad := func(format string, args ...any) (CPRState, error) {
		return CPRState{}, formatError(s.end, "CPR state", format, args...)
	}
	if len(b) < 8 || binary.BigEndian.Uint32(b) != cprMagic {
		return bad("no magic number")
	}
	if v := binary.BigEndian.Uint32(b[4:]); v != cprVersion {
		return bad("version %d", v)
	}
	for s.end = 8; s.end < len(b); {
		switch b[s.end] {
		case 0:
			s.end++
			return s, nil
		case 1:
		default:
			return bad("byte %#x where a descriptor or the end of the list belongs", b[s.end])
		}
		d, err := parseCPRDescriptor(b, s.end+1)
		if err != nil {
			return bad("%v", err)
		}
		s.descriptors = append(s.descriptors, d)
		s.end = d.At + 1
	}
	return bad("the list of descriptors does not end")
}

func parseCPRDescriptor(b []byte, at int) (CPRDescriptor, error) {
	if len(b)-at < 4 {
		return CPRDescriptor{}, errors.New("no length of the name")
	}
	n := uint64(binary.BigEndian.Uint32(b[at:]))
	at += 4
	if n == 0 || uint64(len(b)-at) < n+5 {
		return CPRDescriptor{}, fmt.Errorf("a name of %d bytes", n)
	}
	d := CPRDescriptor{Name: string(b[at : at+int(n)-1])}
	at += int(n)
	d.ID, d.At = int32(binary.BigEndian.Uint32(b[at:])), at+4
	if b[at-1] != 0 || b[d.At] != cprDescriptor {
		return CPRDescriptor{}, fmt.Errorf("descriptor %q is not whole", d.Name)
	}
	return d, nil
}

// Descriptors are those that the source gives, in the order in which they travel.
func (s CPRState) Descriptors() []CPRDescriptor { return s.descriptors }

// Bytes is the state as the source sent it.
func (s CPRState) Bytes() []byte { return s.raw }

// Before101 is the state as a QEMU before 10.1 takes it. An error means that there is something in it that such a QEMU does not know.
func (s CPRState) Before101() ([]byte, error) {
	if more := string(s.raw[s.end:]); more != "" && more != noVFIO {
		return nil, fmt.Errorf("cannot say it in the words of a QEMU before 10.1: %d bytes are behind the list of descriptors", len(more))
	}
	return s.raw[:s.end], nil
}
