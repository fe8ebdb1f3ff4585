package daemon

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"qlive/vmstate"
)

// numbers is the file that holds the number of the last event, so that numbers go on where the last daemon of the run directory left off. A
// listener that comes back after the daemon's restart with the last number it has seen so misses nothing, or is told that it has.
//
// It costs one pwrite of 21 bytes for each event, a microsecond on tmpfs. The zero value keeps nothing.
type numbers struct{ file *os.File }

// keepNumbers goes on with the numbers that are in the file at path, and keeps them there from now on.
func (h *hub) keepNumbers(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return vmstate.Errorf(vmstate.Host, "cannot keep the numbers of events: %w", err)
	}
	text, err := io.ReadAll(io.LimitReader(f, 64))
	if err != nil {
		f.Close()
		return vmstate.Errorf(vmstate.Host, "cannot read the number of the last event: %w", err)
	}
	var last uint64
	if len(text) > 0 {
		if last, err = strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64); err != nil {
			f.Close()
			return vmstate.Errorf(vmstate.Host, "cannot read the number of the last event in %s: %w", path, err).
				With("write a number into it that is larger than any event has had, such as the number of seconds since 1970")
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.seq, h.numbers = last, numbers{f}
	return nil
}

// keep writes the number of the newest event down. What cannot be written is written with the next one.
func (n numbers) keep(seq uint64) {
	if n.file != nil {
		_, _ = n.file.WriteAt(fmt.Appendf(nil, "%020d\n", seq), 0)
	}
}

// dropNumbers ends the keeping; what is emitted afterwards nobody hears.
func (h *hub) dropNumbers() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	f := h.numbers.file
	h.numbers = numbers{}
	if f == nil {
		return nil
	}
	return f.Close()
}
