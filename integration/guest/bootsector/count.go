package bootsector

import (
	"bytes"
	"fmt"
	"io"
	"strconv"
	"time"
)

// Step is how much the count grows from line to line.
const Step = 0x200

// Report is what the boot sector said so far.
type Report struct {
	Lines    uint64        // counts that arrived
	First    uint32        // of all
	Last     uint32        // the latest count
	Lost     uint64        // counts that should have arrived and did not
	Repeated uint64        // counts that are not after the one before
	Torn     uint64        // lines that are not as the boot sector wrote them
	RAM      uint64        // times that RAM did not hold what the register said
	Boots    uint64        // times that the count began
	MaxGap   time.Duration // the longest time between two lines by the host's clock; zero if unknown
	Example  string        // the first torn line
}

// Check returns an error that lists everything wrong: counts lost, repeated or torn, RAM that is not
// as it was left, no count at all. A count that begins again is a reset, and not wrong in itself.
func (r Report) Check() error {
	if r.Lines == 0 {
		return fmt.Errorf("cannot find a count: the boot sector said nothing")
	}
	if r.Lost+r.Repeated+r.Torn+r.RAM > 0 {
		return fmt.Errorf("the boot sector was disturbed: %d counts lost, %d repeated, %d torn (%q), RAM wrong %d times",
			r.Lost, r.Repeated, r.Torn, r.Example, r.RAM)
	}
	return nil
}

// Counter reads the serial port of a boot sector as it comes in. The zero value is ready. It is not
// safe for concurrent use.
type Counter struct {
	report  Report
	pending []byte
	begun   bool      // a count has arrived
	lastAt  time.Time // when it did
}

// Feed takes the next bytes, which arrived at the host at the given time; a zero time means unknown.
func (c *Counter) Feed(b []byte, at time.Time) {
	for {
		line, rest, found := bytes.Cut(b, []byte{'\n'})
		if !found {
			c.pending = append(c.pending, b...)
			// No line is so long; what is cut away keeps it torn.
			c.pending = c.pending[:min(len(c.pending), 256)]
			return
		}
		if len(c.pending) > 0 {
			c.pending = append(c.pending, line...)
			line = c.pending
		}
		c.line(line, at)
		c.pending, b = c.pending[:0], rest
	}
}

// Write is Feed without times, so that a Counter is an io.Writer. It never fails.
func (c *Counter) Write(b []byte) (int, error) {
	c.Feed(b, time.Time{})
	return len(b), nil
}

// Report returns what the boot sector said so far.
func (c *Counter) Report() Report { return c.report }

// Analyze reads all that a boot sector said. The error is the reader's.
func Analyze(r io.Reader) (Report, error) {
	var c Counter
	if _, err := io.Copy(&c, r); err != nil {
		return c.Report(), fmt.Errorf("cannot read the boot sector's port: %w", err)
	}
	return c.Report(), nil
}

// line judges one line, without its newline.
func (c *Counter) line(line []byte, at time.Time) {
	r := &c.report
	letter, n, ok := parse(line)
	switch {
	case ok && letter == 'T' && n == Step && !(c.begun && r.Last == 0):
		c.boot()
	case ok && letter == 'X':
		r.RAM++
		return
	case !ok || n%Step != 0:
		c.tear(line)
		return
	case c.begun:
		c.judge(n)
	default:
		r.First = n
	}
	if c.begun && !at.IsZero() && !c.lastAt.IsZero() {
		r.MaxGap = max(r.MaxGap, at.Sub(c.lastAt))
	}
	r.Lines++
	r.Last, c.lastAt, c.begun = n, at, true
}

// boot takes in the first count of a boot.
func (c *Counter) boot() {
	if !c.begun {
		c.report.First = Step
	}
	c.report.Boots++
}

// tear takes in a line that the boot sector did not write.
func (c *Counter) tear(line []byte) {
	// Before the first count there may be what the firmware says.
	if !c.begun {
		return
	}
	c.report.Torn++
	if c.report.Example == "" {
		c.report.Example = string(line[:min(len(line), 40)])
	}
}

// judge compares a count with the one before. Counts wrap around at 32 bits.
func (c *Counter) judge(n uint32) {
	ahead := int32(n - c.report.Last)
	switch {
	case ahead <= 0:
		c.report.Repeated++
	default:
		c.report.Lost += uint64(ahead/Step) - 1
	}
}

// parse reads a line in the one form that the boot sector writes it.
func parse(line []byte) (letter byte, n uint32, ok bool) {
	if len(line) != 9 || (line[0] != 'T' && line[0] != 'X') {
		return 0, 0, false
	}
	for _, c := range line[1:] {
		if !(c >= '0' && c <= '9' || c >= 'A' && c <= 'F') {
			return 0, 0, false
		}
	}
	v, err := strconv.ParseUint(string(line[1:]), 16, 32)
	return line[0], uint32(v), err == nil
}
