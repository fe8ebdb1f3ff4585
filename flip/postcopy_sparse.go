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

// untouched finds out how much of guest RAM the source has never touched, and how much there is, in bytes. What it cannot see counts as touched.
func (w *postcopyWay) untouched() (untouched, size uint64) {
	tables, err := proc.OpenPagemap(w.h.cfg.Source.Process.PID())
	if err != nil {
		return 0, 0
	}
	defer tables.Close()
	for _, b := range w.blocks {
		if b.File == nil { // no RAM of the guest's
			continue
		}
		touched := uint64(0)
		if err := tables.Touched(proc.Range{Start: b.At, End: b.At + b.Bytes}, func(r proc.Range) { touched += r.End - r.Start }); err != nil {
			touched = b.Bytes
		}
		size += b.Bytes
		untouched += b.Bytes - min(touched, b.Bytes)
	}
	return untouched, size
}

// channel makes the channel that the pages go through: one socket pair, or, where much of guest RAM was never touched, two with a process between them that
// keeps pages of zeroes from the target. a is the source's end.
func (w *postcopyWay) channel() (a, b *os.File, err error) {
	a, b, err = bufferedPair(postcopyBuffer)
	if err != nil || w.h.cfg.Relay == nil {
		return a, b, err
	}
	untouched, size := w.untouched()
	if untouched == 0 || untouched*sparseShare < size {
		return a, b, nil
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
		scarcity.MiB(untouched), w.h.relay.PID())
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
