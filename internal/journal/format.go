package journal

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"strconv"
	"time"

	"qlive/vmstate"
)

// Record is a record as it was read.
type Record struct {
	Seq  uint64          `json:"seq"` // 1 for the first, one more each
	At   time.Time       `json:"at"`  // when it was appended, by the host's clock
	Data json.RawMessage `json:"data"`
}

// ErrTorn is that the last record was cut short by the death of its writer, or is just being written: it was
// never accepted. All records before it are good.
var ErrTorn = errors.New("the last record is torn")

// header is the data of the first line, number 0.
type header struct {
	Format string `json:"format"`
	Level  int    `json:"level"`
}

// The format that this package writes, and the highest level that it reads.
const (
	formatName  = "qlive-journal"
	formatLevel = 1
)

// A line ends in sumKey, eight hexadecimal digits of the CRC-32C of everything before sumKey, and sumEnd.
const (
	sumKey = `,"crc32c":"`
	sumEnd = `"}`
	sumLen = len(sumKey) + 8 + len(sumEnd)
)

func checksum(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

// appendLine appends a record's line with its newline to b. Data must be compact JSON.
func appendLine(b []byte, seq uint64, at time.Time, data []byte) []byte {
	start := len(b)
	b = append(b, `{"seq":`...)
	b = strconv.AppendUint(b, seq, 10)
	b = append(b, `,"at":"`...)
	b = at.UTC().AppendFormat(b, time.RFC3339Nano)
	b = append(b, `","data":`...)
	b = append(b, data...)
	sum := checksum(b[start:])
	b = append(b, sumKey...)
	b = hex.AppendEncode(b, []byte{byte(sum >> 24), byte(sum >> 16), byte(sum >> 8), byte(sum)})
	return append(b, sumEnd+"\n"...)
}

// intact tells whether line, without its newline, carries its own checksum.
func intact(line []byte) bool {
	if len(line) < sumLen {
		return false
	}
	body, tail := line[:len(line)-sumLen], line[len(line)-sumLen:]
	return string(tail) == fmt.Sprintf("%s%08x%s", sumKey, checksum(body), sumEnd)
}

// contents is a whole file.
type contents struct {
	records []Record
	next    uint64 // number of the next line
	end     int    // where the last good line ends, without its newline if that is missing
	newline bool   // the last good line has its newline
}

// decode reads the whole of a journal. With ErrTorn the contents are good up to their end; with any other error
// there are none. The name is for messages.
func decode(name string, file []byte) (contents, error) {
	c := contents{newline: true}
	for n := 1; c.end < len(file); n++ {
		start := c.end
		line, _, whole := bytes.Cut(file[start:], []byte("\n"))
		if !whole && !intact(line) {
			if hidesRecord(line) {
				return contents{}, corrupt(name, n, start, "a whole record is followed by something else than a newline")
			}
			return c, fmt.Errorf("%s, line %d at offset %d: %w", name, n, start, ErrTorn)
		}
		if err := c.add(line); err != nil {
			var level *levelError
			if errors.As(err, &level) {
				return contents{}, level.explain(name)
			}
			return contents{}, corrupt(name, n, start, err.Error())
		}
		c.end, c.newline = start+len(line), whole
		if whole {
			c.end++
		}
	}
	return c, nil
}

// add takes one line, without its newline.
func (c *contents) add(line []byte) error {
	if !intact(line) {
		return errors.New("the line does not match its checksum")
	}
	var r Record
	if err := json.Unmarshal(line, &r); err != nil {
		return fmt.Errorf("the line is no record: %w", err)
	}
	if r.Seq != c.next {
		return fmt.Errorf("the line has number %d and should have %d", r.Seq, c.next)
	}
	c.next++
	if r.Seq != 0 {
		c.records = append(c.records, r)
		return nil
	}
	var h header
	if err := json.Unmarshal(r.Data, &h); err != nil || h.Format != formatName {
		return fmt.Errorf("the first line does not say that this is a %s", formatName)
	}
	if h.Level < 1 || h.Level > formatLevel {
		return &levelError{h.Level}
	}
	return nil
}

// hidesRecord tells whether line starts with a whole record: then it was not cut short, but a newline was lost.
func hidesRecord(line []byte) bool {
	for at := 0; ; {
		i := bytes.Index(line[at:], []byte(sumKey))
		if i < 0 || at+i+sumLen > len(line) {
			return false
		}
		if intact(line[:at+i+sumLen]) {
			return true
		}
		at += i + 1
	}
}

func corrupt(name string, line, offset int, why string) error {
	return vmstate.Errorf(vmstate.Host, "cannot read journal %s: line %d at offset %d: %s", name, line, offset, why).
		With("find out who changed the file; what it would have said must be found out by hand")
}

type levelError struct{ level int }

func (e *levelError) Error() string { return fmt.Sprintf("format level %d", e.level) }

func (e *levelError) explain(name string) error {
	return vmstate.Errorf(vmstate.Unsupported, "cannot read journal %s: it has format level %d, and this qlive reads up to %d",
		name, e.level, formatLevel).With("start the version of qlive that wrote it, or a newer one")
}
