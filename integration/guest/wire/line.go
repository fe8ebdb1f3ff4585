package wire

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// The kinds of lines. A line begins with its kind.
const (
	KindBeat = "B"
	KindUp   = "GUEST-UP"
	KindFill = "FILL"
	KindMem  = "MEM"
	KindBad  = "BAD"
	KindAck  = "ACK"
	KindEcho = "ECHO"
	KindErr  = "ERR"
	KindBye  = "BYE"
)

// MaxLine is the length in bytes, newline included, that no line of the guest exceeds: what is
// longer is not the guest's.
const MaxLine = 400

// Errors of Split and of the Parse functions.
var (
	// ErrShape means that the bytes do not have the form of a line: they are something else, or a part.
	ErrShape = errors.New("not a line of the test guest")
	// ErrSum means that the form is right and the checksum is not: bytes were lost or mixed.
	ErrSum = errors.New("checksum does not match")
)

// Checksum returns the 16 bit checksum of a line's body (FNV-1a, folded).
func Checksum(body []byte) uint16 {
	h := uint32(2166136261)
	for _, c := range body {
		h = (h ^ uint32(c)) * 16777619
	}
	return uint16(h>>16) ^ uint16(h)
}

const hexDigits = "0123456789abcdef"

// Seal appends to dst, whose bytes from start on are a line's body, the checksum and the newline.
// It allocates nothing if dst has room.
func Seal(dst []byte, start int) []byte {
	c := Checksum(dst[start:])
	return append(dst, ' ', hexDigits[c>>12], hexDigits[c>>8&15], hexDigits[c>>4&15], hexDigits[c&15], '\n')
}

// Split checks a line without its newline and returns its kind and payload (both parts of line).
// The error is ErrShape or ErrSum.
func Split(line []byte) (kind string, payload []byte, err error) {
	n := len(line) - 5
	if n < 1 || line[n] != ' ' || len(line) >= MaxLine {
		return "", nil, ErrShape
	}
	sum, ok := hex16(line[n+1:])
	if !ok {
		return "", nil, ErrShape
	}
	body := line[:n]
	word, rest, _ := bytes.Cut(body, []byte{' '})
	kind, ok = kindOf(word)
	if !ok {
		return "", nil, ErrShape
	}
	if sum != Checksum(body) {
		return kind, nil, ErrSum
	}
	return kind, rest, nil
}

// kindOf returns the kind that word names, without allocating.
func kindOf(word []byte) (string, bool) {
	for _, k := range [...]string{KindBeat, KindMem, KindBad, KindAck, KindEcho, KindErr, KindFill, KindBye, KindUp} {
		if string(word) == k {
			return k, true
		}
	}
	return "", false
}

func hex16(b []byte) (uint16, bool) {
	var v uint16
	for _, c := range b {
		i := strings.IndexByte(hexDigits, c)
		if i < 0 {
			return 0, false
		}
		v = v<<4 | uint16(i)
	}
	return v, len(b) == 4
}

// Beat is one beat of the guest's heart.
type Beat struct {
	Seq    uint64 // counts from 1 in each boot
	Micros int64  // the guest's CLOCK_MONOTONIC in µs when the beat was written
}

// Append appends the line of b, newline included. It allocates nothing if dst has room.
func (b Beat) Append(dst []byte) []byte {
	start := len(dst)
	dst = append(dst, KindBeat+" "...)
	dst = strconv.AppendUint(dst, b.Seq, 10)
	dst = append(dst, ' ')
	dst = strconv.AppendInt(dst, b.Micros, 10)
	return Seal(dst, start)
}

// ParseBeat reads the payload of a line of KindBeat. The error is ErrShape.
func ParseBeat(payload []byte) (Beat, error) {
	seq, us, _ := bytes.Cut(payload, []byte{' '})
	s, ok1 := decimal(seq)
	u, ok2 := decimal(us)
	if !ok1 || !ok2 || u > 1<<62 {
		return Beat{}, ErrShape
	}
	return Beat{Seq: s, Micros: int64(u)}, nil
}

// decimal reads an unsigned decimal number in the one form that the guest writes it.
func decimal(b []byte) (uint64, bool) {
	if len(b) == 0 || len(b) > 19 || (b[0] == '0' && len(b) > 1) {
		return 0, false
	}
	var v uint64
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		v = v*10 + uint64(c-'0')
	}
	return v, true
}

// Text returns the line of a kind that carries free text (ECHO, ERR, ACK), newline included. What
// is not printable ASCII becomes '?', and what is too long is cut.
func Text(kind, text string) []byte {
	line := append([]byte(kind), ' ')
	for i := 0; i < len(text) && len(line) < MaxLine-8; i++ {
		c := text[i]
		if c < ' ' || c > '~' {
			c = '?'
		}
		line = append(line, c)
	}
	return Seal(line, 0)
}

// shapeError says which member of a line is wrong.
func shapeError(kind, member string) error {
	return fmt.Errorf("cannot read %s of a line %s: %w", member, kind, ErrShape)
}
