package flip

import (
	"fmt"
	"os"
	"time"

	"qlive/internal/proc"
	between "qlive/internal/relay"
	"qlive/internal/scarcity"
)

// sparseShare is the part of guest RAM, one in so many, that the source must not have touched for a relay to be put into the channel. What passes the relay
// takes it longer, what it keeps back takes no time: docs/postcopy.md has the figures.
const sparseShare = 3

// relayLimit bounds how long it is waited for a relay to see that both QEMUs have hung up.
const relayLimit = time.Second

// countUntouched finds out how much of guest RAM the source has never touched. What it cannot see counts as touched.
func (m *postcopyMode) countUntouched() {
	m.way.untouched, m.way.size = 0, 0
	tables, err := proc.OpenPagemap(m.h.cfg.Source.Process.PID())
	if err != nil {
		return
	}
	defer tables.Close()
	for _, at := range m.at {
		size := at.End - at.Start
		touched := uint64(0)
		if err := tables.Touched(at, func(r proc.Range) { touched += r.End - r.Start }); err != nil {
			touched = size
		}
		m.way.size += size
		m.way.untouched += size - min(touched, size)
	}
}

// channel makes the channel that the pages go through: one socket pair, or, where much of guest RAM was never touched, two with a process between them that
// keeps pages of zeroes from the target. a is the source's end.
func (w *postcopyWay) channel() (a, b *os.File, err error) {
	a, b, err = bufferedPair(postcopyBuffer)
	if err != nil || w.h.cfg.Relay == nil || w.untouched*sparseShare < w.size {
		return a, b, err
	}
	c, d, err := bufferedPair(postcopyBuffer)
	if err == nil {
		if w.h.relay, err = w.h.cfg.Relay(b, c); err != nil {
			c.Close()
			d.Close()
		}
	}
	if err != nil {
		w.h.logf("what the guest has never touched will take memory: %v", err)
		return a, b, nil
	}
	b.Close()
	c.Close()
	w.h.logf("%s of guest RAM were never touched, and take no memory in the target; the process %d keeps them out of the channel",
		scarcity.MiB(w.untouched), w.h.relay.PID())
	return a, d, nil
}

// sift tells the relay, if there is one, that the guest runs in the target, and nothing of it will be wanted back. If the daemon dies before, pages of zeroes
// go on to pass.
func (w *postcopyWay) sift() error {
	if w.h.relay == nil {
		return nil
	}
	if err := w.h.relay.Signal(between.Begin); err != nil && w.h.relayDied() == "" {
		return fmt.Errorf("cannot tell the relay to keep pages of zeroes back: %w", err)
	}
	return nil
}

// forgetRelay lets go of the relay, which ends with the QEMUs.
func (h *Handoff) forgetRelay() {
	if h.relay == nil {
		return
	}
	select {
	case <-h.relay.Done():
	case <-time.After(relayLimit): // both have been left as they are, for a person to look at
	}
	_ = h.relay.Release() // nothing is left of it
}

// relayDied is how the guest was lost if the process in the middle of the channel has ended before its time; else empty.
func (h *Handoff) relayDied() string {
	if h.relay == nil {
		return ""
	}
	if exit, over := h.relay.Exited(); !over || exit.Signal == 0 && exit.Code == 0 {
		return ""
	}
	return "the process in the middle of the channel died before all pages had come"
}
