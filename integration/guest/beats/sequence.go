package beats

import (
	"time"

	"qlive/integration/guest/wire"
)

// beat takes in one beat.
func (p *Parser) beat(b wire.Beat, at time.Time) {
	p.report.Beats++
	boot := p.boot()
	switch last := boot.Last; {
	case boot.First == wire.Beat{}:
		// A boot that was seen to begin begins with beat 1; else any beat is the first.
		boot.First, boot.FirstAt = b, at
		if boot.Up != nil {
			p.miss(1, b.Seq)
		}
	case b.Seq <= last.Seq:
		p.late(b)
		return
	default:
		if b.Micros < last.Micros {
			p.report.ClockBack++
		}
		if b.Seq == last.Seq+1 {
			p.gap(b, at, boot)
		} else {
			p.miss(last.Seq+1, b.Seq)
		}
	}
	boot.Last, boot.LastAt = b, at
}

// gap takes in the time from the last beat to b, the next.
func (p *Parser) gap(b wire.Beat, at time.Time, boot *Boot) {
	guest := time.Duration(b.Micros-boot.Last.Micros) * time.Microsecond
	for _, g := range []*Gaps{&p.report.Gaps, &p.window} {
		g.GuestAll.add(guest)
		if guest > g.Guest {
			g.Guest, g.GuestSeq = guest, b.Seq
		}
		if at.IsZero() || boot.LastAt.IsZero() {
			continue
		}
		host := at.Sub(boot.LastAt)
		g.HostAll.add(host)
		if host > g.Host {
			g.Host, g.HostSeq = host, b.Seq
		}
	}
}

// miss notes that the beats from first up to, not including, next have not arrived.
func (p *Parser) miss(first, next uint64) {
	if next <= first {
		return
	}
	p.report.Lost += next - first
	if p.missing == nil {
		p.missing = map[uint64]struct{}{}
	}
	for seq := first; seq < next && len(p.missing) < maxMissing; seq++ {
		p.missing[seq] = struct{}{}
	}
}

// late takes in a beat that is not after the last.
func (p *Parser) late(b wire.Beat) {
	if _, ok := p.missing[b.Seq]; !ok {
		p.report.Repeated++
		return
	}
	delete(p.missing, b.Seq)
	p.report.Lost--
	p.report.OutOfOrder++
}
