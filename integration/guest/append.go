package guest

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Params are what a guest is told on its kernel command line. The zero value of a member means the
// guest's own default.
type Params struct {
	FillMiB      int      // memory that holds the pattern (64)
	DirtyMiB     int      // the part of it that is rewritten all the time (4)
	DirtyPPS     int      // pages rewritten per second (1000); -1 for none
	VerifySecs   int      // pause between two periodic verifications (5); -1 for none
	BeatMicros   int      // period of the beat (2000)
	KernelParams []string // appended as they are
}

// Append returns the kernel command line for p, ready for QEMU's -append.
func Append(p Params) string {
	words := []string{kernelParams}
	add := func(name string, v int) {
		switch {
		case v > 0:
			words = append(words, fmt.Sprintf("qlive.%s=%d", name, v))
		case v < 0:
			words = append(words, fmt.Sprintf("qlive.%s=0", name))
		}
	}
	add("fill_mb", p.FillMiB)
	add("dirty_mb", p.DirtyMiB)
	add("dirty_pps", p.DirtyPPS)
	add("verify_s", p.VerifySecs)
	add("beat_us", p.BeatMicros)
	return strings.Join(append(words, p.KernelParams...), " ")
}

// kernelParams make the boot quick and the console quiet. Measured under TCG (two host cores, 256
// MiB): from QEMU's start to GUEST-UP 1.3 s; without cryptomgr.notests 1.5 s; i8042, mitigations,
// KASLR, audit and the like make no difference that can be measured.
//
//   - quiet loglevel=1: only emergencies reach the console, so that it belongs to the guest program.
//   - tsc=reliable: without it the kernel calibrates the TSC for its first seconds, has timers of 4 ms
//     while it does, and may later take a pause of the machine for a fault of the TSC.
//   - no_timer_check: on a host that is busy no tick may come while the kernel waits for one, and it would panic ("IO-APIC + timer doesn't work").
//   - nowatchdog: a guest whose QEMU hangs for a while would be told of a soft lockup, in the middle of a beat.
//   - No reboot= is needed: the default restarts through the firmware on q35 and i440fx.
const kernelParams = "console=ttyS0,115200 quiet loglevel=1 tsc=reliable no_timer_check nowatchdog cryptomgr.notests"

func sortedKeys(m map[string][]byte) []string { return slices.Sorted(maps.Keys(m)) }
