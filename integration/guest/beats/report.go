package beats

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"qlive/integration/guest/wire"
)

// Report is what a console said so far. It shares no memory with the parser.
type Report struct {
	Boots []Boot // in order; the first is without Up if the stream began in the middle of a boot

	Beats      uint64 // beats that arrived, repeated ones included
	Lost       uint64 // sequence numbers that should have arrived by now and did not
	Repeated   uint64 // beats whose sequence number had arrived before
	OutOfOrder uint64 // beats that arrived after a later one, but only once
	ClockBack  uint64 // beats whose guest clock is behind that of an earlier beat of the boot
	Torn       uint64 // lines within a boot that are not as the guest wrote them
	Cut        uint64 // boots whose last line was cut off by a reset: not a fault

	Gaps Gaps // between beats of consecutive sequence numbers

	Mems    uint64     // verifications reported
	BadMems uint64     // of these, not ok, or contradicting what the boot said before
	LastMem *wire.Mem  // the latest, nil if none
	Bad     []wire.Bad // the first few bad pages described

	Answers []string // the last few lines ACK and ECHO, without their kind
	Errors  []string // the first few lines ERR of the guest, and what is wrong with the boot's own story
	Kernel  []string // the first few lines that the kernel printed
	TornAs  []string // the first few torn lines
	Panics  uint64   // kernel panics

	Pending int // bytes of a line that is not finished yet
}

// Boot is one life of the guest, from its first line to a reset.
type Boot struct {
	Up       *wire.Up   // nil if the stream began after it
	Fill     *wire.Fill // nil while memory is being filled
	Bye      *wire.Bye  // nil unless it ended on purpose
	First    wire.Beat  // of the boot; zero if none yet
	Last     wire.Beat  // the one with the greatest sequence number
	FirstAt  time.Time  // when First arrived at the host; zero if no times were given
	LastAt   time.Time  // when Last arrived
	Panicked bool       // the kernel said so
}

// Lag is how far the guest's clock fell behind the host's between the first and the last beat of the
// boot: what the guest was stopped for, in all. Zero if no arrival times are known.
func (b Boot) Lag() time.Duration {
	if b.FirstAt.IsZero() || b.LastAt.IsZero() {
		return 0
	}
	return b.LastAt.Sub(b.FirstAt) - time.Duration(b.Last.Micros-b.First.Micros)*time.Microsecond
}

// Gaps describes the time between a beat and the next.
type Gaps struct {
	Guest    time.Duration // the longest by the guest's clock
	GuestSeq uint64        // the beat that ended it
	Host     time.Duration // the longest by the host's clock; zero if no arrival times are known
	HostSeq  uint64        // the beat that ended it
	GuestAll Histogram
	HostAll  Histogram
}

// errNothing says that a console had nothing on it.
var errNothing = errors.New("cannot find a beat: the console has none")

// Check returns an error that lists everything wrong with what the console said: beats lost,
// repeated, out of order or torn, a clock that went back, memory that is not as it should be, errors,
// panics that were not asked for, no beat at all. Reboots and gaps are not wrong in themselves.
func (r Report) Check() error {
	if r.Beats == 0 {
		return errNothing
	}
	var faults []string
	count := func(n uint64, what string, examples []string) {
		if n > 0 {
			faults = append(faults, fmt.Sprintf("%d %s %q", n, what, examples))
		}
	}
	count(r.Lost, "beats lost", nil)
	count(r.Repeated, "beats repeated", nil)
	count(r.OutOfOrder, "beats out of order", nil)
	count(r.ClockBack, "beats with the clock gone back", nil)
	count(r.Torn, "torn lines", r.TornAs)
	count(r.BadMems, "bad verifications of memory", badPages(r.Bad))
	count(uint64(len(r.Errors)), "errors", r.Errors)
	count(r.unasked(), "unasked kernel panics", r.Kernel)
	if faults == nil {
		return nil
	}
	return fmt.Errorf("the guest was disturbed: %s", strings.ReplaceAll(strings.Join(faults, "; "), " []", ""))
}

// unasked counts the panics that no command asked for.
func (r Report) unasked() (n uint64) {
	for _, b := range r.Boots {
		if b.Panicked && (b.Bye == nil || b.Bye.How != "panic") {
			n++
		}
	}
	return n
}

func badPages(bad []wire.Bad) (s []string) {
	for _, b := range bad {
		s = append(s, fmt.Sprintf("page %d is %s", b.Page, b.What))
	}
	return s
}

// Histogram counts durations in steps of 100 µs up to 200 ms; what is longer falls into the last.
type Histogram struct {
	counts [2000]uint32
	n      uint64
}

const histogramStep = 100 * time.Microsecond

func (h *Histogram) add(d time.Duration) {
	i := min(max(int(d/histogramStep), 0), len(h.counts)-1)
	h.counts[i]++
	h.n++
}

// N is how many durations were counted.
func (h *Histogram) N() uint64 { return h.n }

// Quantile returns an upper bound, to 100 µs, of the smallest duration that at least the share q of
// all do not exceed; 200 ms if it lies beyond, 0 if nothing was counted.
func (h *Histogram) Quantile(q float64) time.Duration {
	want := uint64(q*float64(h.n) + 0.5)
	seen := uint64(0)
	for i, c := range h.counts {
		seen += uint64(c)
		if seen >= max(want, 1) {
			return time.Duration(i+1) * histogramStep
		}
	}
	return 0
}
