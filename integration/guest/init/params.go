package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// params are what the kernel's command line says about the guest.
type params struct {
	fillMiB  uint64        // qlive.fill_mb: memory that holds the pattern
	dirtyMiB uint64        // qlive.dirty_mb: the part of it, at its end, that is rewritten all the time
	dirtyPPS uint64        // qlive.dirty_pps: pages rewritten per second
	verify   time.Duration // qlive.verify_s: pause between periodic verifications, 0 for none
	beat     time.Duration // qlive.beat_us: period of the beat
}

// readParams reads the parameters off a kernel command line. What is not ours is ignored; what is
// ours and cannot be read is an error.
func readParams(cmdline string) (params, error) {
	p := params{fillMiB: 64, dirtyMiB: 4, dirtyPPS: 1000, verify: 5 * time.Second, beat: 2 * time.Millisecond}
	for _, word := range strings.Fields(cmdline) {
		key, value, _ := strings.Cut(word, "=")
		name, ours := strings.CutPrefix(key, "qlive.")
		if !ours {
			continue
		}
		n, err := strconv.ParseUint(value, 10, 32)
		if err != nil {
			return p, fmt.Errorf("cannot read kernel parameter %s: give it a whole number", word)
		}
		switch name {
		case "fill_mb":
			p.fillMiB = n
		case "dirty_mb":
			p.dirtyMiB = n
		case "dirty_pps":
			p.dirtyPPS = n
		case "verify_s":
			p.verify = time.Duration(n) * time.Second
		case "beat_us":
			p.beat = time.Duration(n) * time.Microsecond
		default:
			return p, fmt.Errorf("cannot read kernel parameter %s: no such parameter", word)
		}
	}
	if p.fillMiB == 0 || p.dirtyMiB > p.fillMiB || p.beat < 100*time.Microsecond {
		return p, fmt.Errorf("cannot use fill_mb=%d dirty_mb=%d beat_us=%d: need 0 < fill, dirty <= fill, beat_us >= 100",
			p.fillMiB, p.dirtyMiB, p.beat.Microseconds())
	}
	return p, nil
}
