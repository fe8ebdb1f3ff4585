package demo

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"qlive/vmstate"
)

// Widths of the table's columns: three handoffs fit into a line.
const (
	headWidth = 32
	cellWidth = 15
)

// table shows what it cost.
func (o *screen) table(s *show) {
	o.text("")
	row := func(head string, cell func(hop) string) {
		var b strings.Builder
		fmt.Fprintf(&b, "%-*s", headWidth, head)
		for _, h := range s.hops {
			fmt.Fprintf(&b, "%*s", cellWidth, cell(h))
		}
		o.text("%s", strings.TrimRight(b.String(), " "))
	}
	row("WHAT IT COST", func(h hop) string { return h.from + " to" })
	row("", func(h hop) string { return h.to })
	row("pause, from stop to cont", func(h hop) string { return micros(h.migration.PauseUS) })
	row("  by QEMU's own clock", func(h hop) string { return micros(h.migration.QEMUPause) })
	row("largest gap between two beats", func(h hop) string { return exactly(h.gaps.Host) })
	row("  by the guest's own clock", func(h hop) string { return exactly(h.gaps.Guest) })
	row("heartbeats lost", func(h hop) string { return fmt.Sprint(h.lost) })
	row("memory checksum afterwards", func(h hop) string { return s.compare(h) })
	o.text("")
	r := s.said
	o.text("heartbeats  %d in all, %d lost, %d repeated; one comes every 2 ms, and while", r.Beats, r.Lost, r.Repeated)
	o.text("            nothing went on the largest gap was %s", exactly(s.quiet))
	if s.cast.accel == accelTCG {
		o.text("            (an emulator is slow at first in a new QEMU, which has to translate")
		o.text("            the guest's code anew: that shows on the guest's own clock, while a")
		o.text("            pause does not, as that clock stands then)")
	}
	o.text("checksum    %016x before, %s, by the guest itself", s.up.Fill.Sum, s.lastSum())
	peak := s.meter.peak()
	o.text("memory      %s of guest RAM, held once; at the peak the host held %s", mib(s.before.RAM), signed(peak.total(), s.before.total()))
	o.text("            more than before, where a second copy would have taken %s", mib(peak.RAM))
}

// compare tells a checksum in a word.
func (s *show) compare(h hop) string {
	switch {
	case !h.checked:
		return "-"
	case h.sum == s.up.Fill.Sum:
		return "the same"
	}
	return "DIFFERS"
}

func (s *show) lastSum() string {
	last := s.hops[len(s.hops)-1]
	return fmt.Sprintf("%016x after", last.sum)
}

func exactly(d time.Duration) string { us := d.Microseconds(); return micros(&us) }

func mib(n uint64) string { return fmt.Sprintf("%.0f MiB", float64(n)/(1<<20)) }

// signed is the difference of two sizes, which may be negative where memory was given back.
func signed(a, b uint64) string { return fmt.Sprintf("%.1f MiB", (float64(a)-float64(b))/(1<<20)) }

// verdict is an error if the guest was disturbed.
func (s *show) verdict() error {
	var errs []error
	if err := s.said.Check(); err != nil {
		errs = append(errs, err)
	}
	for _, h := range s.hops {
		if h.sum != s.up.Fill.Sum {
			errs = append(errs, fmt.Errorf("memory differs after the handoff to %s: checksum %016x instead of %016x", h.to, h.sum, s.up.Fill.Sum))
		}
	}
	if n := len(s.said.Boots); n != 1 {
		errs = append(errs, fmt.Errorf("the guest has booted %d times", n))
	}
	if err := errors.Join(errs...); err != nil {
		return vmstate.Errorf(vmstate.Internal, "cannot call this a success: %w", err)
	}
	return nil
}
