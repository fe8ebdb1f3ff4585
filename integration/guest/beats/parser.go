package beats

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"time"

	"qlive/integration/guest/wire"
)

// keep is how many examples of each kind of fault a report holds.
const keep = 8

// maxMissing is how many sequence numbers of one boot are remembered as missing; beyond it a beat
// that arrives late counts as repeated.
const maxMissing = 1 << 16

// Parser reads a console as it comes in. The zero value is ready. It is not safe for concurrent use.
type Parser struct {
	// OnBeat and OnLine, if not nil, are called for every beat, and for every other line of the guest,
	// in order, with the time given to Feed. The payload is only good during the call.
	OnBeat func(b wire.Beat, at time.Time)
	OnLine func(kind string, payload []byte, at time.Time)

	report  Report
	pending []byte
	missing map[uint64]struct{} // of this boot, not arrived yet
	sum     *uint64             // of the memory that this boot never rewrites
	gen     uint64              // the greatest count of page writes that this boot reported

	// As they were at the last line that the guest wrote.
	goodTorn   uint64
	goodTornAs int
	cut        bool // since then there was something that is not a line, and not empty
	window     Gaps // since the last Window
}

// Feed takes the next bytes of the console, which arrived at the host at the given time. A zero time
// means that nobody knows.
func (p *Parser) Feed(b []byte, at time.Time) {
	for {
		i := bytes.IndexByte(b, '\n')
		if i < 0 {
			p.pending = append(p.pending, b...)
			p.trim()
			return
		}
		line := b[:i]
		if len(p.pending) > 0 {
			p.pending = append(p.pending, line...)
			line = p.pending
		}
		p.line(line, at)
		p.pending = p.pending[:0]
		b = b[i+1:]
	}
}

// trim keeps a line without an end from growing for ever. What is cut away is longer than any line
// of the guest, so the verdict on it stands.
func (p *Parser) trim() {
	if len(p.pending) > 4*wire.MaxLine {
		p.pending = append(p.pending[:2*wire.MaxLine], p.pending[len(p.pending)-wire.MaxLine:]...)
	}
}

// Write is Feed without arrival times, so that a Parser is an io.Writer. It never fails.
func (p *Parser) Write(b []byte) (int, error) {
	p.Feed(b, time.Time{})
	return len(b), nil
}

// Report returns what the console said so far.
func (p *Parser) Report() Report {
	r := p.report
	r.Pending = len(p.pending)
	r.Boots = slices.Clone(r.Boots)
	r.Bad = slices.Clone(r.Bad)
	r.Answers = slices.Clone(r.Answers)
	r.Errors = slices.Clone(r.Errors)
	r.Kernel = slices.Clone(r.Kernel)
	r.TornAs = slices.Clone(r.TornAs)
	return r
}

// Window returns the gaps since the last call of Window (or the beginning), and begins anew: what a
// single handoff did to the guest is the window around it.
func (p *Parser) Window() Gaps {
	w := p.window
	p.window = Gaps{}
	return w
}

// Analyze reads a whole console and returns the report. The error is the reader's.
func Analyze(r io.Reader) (Report, error) {
	var p Parser
	if _, err := io.Copy(&p, r); err != nil {
		return p.Report(), fmt.Errorf("cannot read the console: %w", err)
	}
	return p.Report(), nil
}

// line judges one line, without its newline.
func (p *Parser) line(line []byte, at time.Time) {
	kind, payload, err := wire.Split(line)
	if err != nil {
		p.strange(line)
		return
	}
	if kind == wire.KindBeat {
		var b wire.Beat
		if b, err = wire.ParseBeat(payload); err == nil {
			p.beat(b, at)
		}
		if err == nil && p.OnBeat != nil {
			p.OnBeat(b, at)
		}
	} else if err = p.tell(kind, payload); err == nil && p.OnLine != nil {
		p.OnLine(kind, payload, at)
	}
	if err != nil {
		p.strange(line)
		return
	}
	p.goodTorn, p.goodTornAs, p.cut = p.report.Torn, len(p.report.TornAs), false
}

// begin takes in the beginning of a boot. Whatever came between the last whole line and it was cut
// off by a reset, or said by the firmware.
func (p *Parser) begin(up wire.Up) {
	r := &p.report
	if r.Torn > p.goodTorn {
		r.Torn, r.TornAs = p.goodTorn, r.TornAs[:p.goodTornAs]
	}
	if p.cut {
		r.Cut++
	}
	r.Boots = append(r.Boots, Boot{Up: &up})
	p.missing, p.sum, p.gen = nil, nil, 0
}

// tell takes in a line other than a beat.
func (p *Parser) tell(kind string, payload []byte) error {
	r := &p.report
	switch kind {
	case wire.KindUp:
		up, err := wire.ParseUp(payload)
		if err != nil {
			return err
		}
		p.begin(up)
	case wire.KindFill:
		f, err := wire.ParseFill(payload)
		if err != nil {
			return err
		}
		p.boot().Fill = &f
		p.sum = &f.Sum
	case wire.KindMem:
		m, err := wire.ParseMem(payload)
		if err != nil {
			return err
		}
		p.mem(m)
	case wire.KindBad:
		b, err := wire.ParseBad(payload)
		if err != nil {
			return err
		}
		r.Bad = keepFirst(r.Bad, b)
	case wire.KindBye:
		b, err := wire.ParseBye(payload)
		if err != nil {
			return err
		}
		if last := p.boot().Last.Seq; b.Seq != last {
			r.Errors = keepFirst(r.Errors, fmt.Sprintf("the guest ended after beat %d, the last that arrived is %d", b.Seq, last))
		}
		p.boot().Bye = &b
	case wire.KindErr:
		r.Errors = keepFirst(r.Errors, string(payload))
	case wire.KindEcho, wire.KindAck:
		n := len(r.Answers)
		r.Answers = append(r.Answers[max(0, n-keep+1):n:n], string(payload))
	}
	return nil
}

// boot returns the boot that is going on. Before any line that begins one, it is one that the stream
// came too late for.
func (p *Parser) boot() *Boot {
	if len(p.report.Boots) == 0 {
		p.report.Boots = []Boot{{}}
	}
	return &p.report.Boots[len(p.report.Boots)-1]
}

// mem takes in the result of a verification.
func (p *Parser) mem(m wire.Mem) {
	r := &p.report
	r.Mems++
	if p.sum == nil {
		p.sum = &m.Sum
	}
	if !m.OK || m.Sum != *p.sum || m.Gen < p.gen {
		r.BadMems++
	}
	p.gen = max(p.gen, m.Gen)
	r.LastMem = &m
}

// strange judges a line that the guest did not write as it is.
func (p *Parser) strange(line []byte) {
	line = bytes.Trim(line, "\r\x00")
	r := &p.report
	if bytes.Contains(line, []byte("Kernel panic - not syncing")) {
		r.Panics++
		p.boot().Panicked = true
	}
	if isKernel(line) {
		r.Kernel = keepFirst(r.Kernel, excerpt(line))
		return
	}
	// Before a boot and after its end there may be anything: firmware, boot loader, backtrace.
	if n := len(r.Boots); n == 0 || r.Boots[n-1].Bye != nil || r.Boots[n-1].Panicked {
		return
	}
	p.cut = p.cut || len(line) > 0
	r.Torn++
	r.TornAs = keepFirst(r.TornAs, excerpt(line))
}

// isKernel says whether a line has the form that the kernel gives its own: "[    1.234567] ".
func isKernel(line []byte) bool {
	i := bytes.IndexByte(line, ']')
	if i < 2 || line[0] != '[' {
		return false
	}
	return len(bytes.Trim(line[1:i], " .0123456789T")) == 0
}

func excerpt(line []byte) string { return string(line[:min(len(line), 120)]) }

func keepFirst[T any](all []T, one T) []T {
	if len(all) >= keep {
		return all
	}
	return append(all[:len(all):len(all)], one)
}
