package bench

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"qlive/internal/proc"
)

// Sample is what one handoff did.
type Sample struct {
	PauseUS     int64 `json:"pause_us"`      // from sending stop (from STOP, where QEMU stops the guest itself) to the reply of cont
	QEMUPauseUS int64 `json:"qemu_pause_us"` // from QEMU's STOP to its RESUME
	HostGapUS   int64 `json:"host_gap_us"`   // longest time between two beats, as they arrived
	GuestGapUS  int64 `json:"guest_gap_us"`  // the same by the guest's own clock, which stands while the guest does
	TotalUS     int64 `json:"total_us"`      // from asking until the source has ended
	HeldBytes   int64 `json:"held_bytes"`    // memory of the host held at the peak beyond the start
	TargetBytes int64 `json:"target_bytes"`  // the target's own memory and page tables, once it runs
	CPUUS       int64 `json:"cpu_us"`        // of both QEMUs and qlive

	LapsUS map[string]int64 `json:"laps_us"` // pieces of the pause, see lapNames
}

// memoryTick is how often the host's memory is looked at.
const memoryTick = 10 * time.Millisecond

// MemoryWatch finds the most memory that the host held.
type MemoryWatch struct {
	start, peak int64
	cancel      context.CancelFunc
	done        sync.WaitGroup
}

// heldNow is the memory that somebody holds: private, shared and huge pages. What is free or available says nothing, see
// proc.Meminfo.
func heldNow() (int64, error) {
	m, err := proc.ReadMeminfo()
	return int64(m.Anon + m.Shmem + (m.HugePages-m.HugePagesFree)*m.HugePageBytes), err
}

// WatchMemory looks at every tick, until Stop is called.
func WatchMemory(ctx context.Context, every time.Duration) *MemoryWatch {
	ctx, cancel := context.WithCancel(ctx)
	w := &MemoryWatch{cancel: cancel}
	w.start, _ = heldNow()
	w.peak = w.start
	w.done.Go(func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				if n, err := heldNow(); err == nil {
					w.peak = max(w.peak, n)
				}
			case <-ctx.Done():
				return
			}
		}
	})
	return w
}

// Stop ends the watch and returns what was held beyond the start, at the peak, in bytes.
func (w *MemoryWatch) Stop() int64 {
	w.cancel()
	w.done.Wait()
	return w.peak - w.start
}

// familyCPU is what a process has used, with all its children, those that have ended included.
func familyCPU(pid int) (time.Duration, error) {
	total, _, err := cpuOf(pid)
	if err != nil {
		return 0, err
	}
	pids, err := proc.PIDs()
	if err != nil {
		return 0, err
	}
	for _, child := range pids {
		if used, parent, err := cpuOf(child); err == nil && parent == pid { // an error: it has ended meanwhile
			total += used
		}
	}
	return total, nil
}

// cpuOf is what a process has used, its children that have ended included, and its parent.
func cpuOf(pid int) (used time.Duration, parent int, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, err
	}
	// Fields 4 and 14 to 17 of proc(5), counted from behind the name, which may hold anything.
	const ppid, utime, cstime = 1, 11, 14
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	if len(fields) <= cstime {
		return 0, 0, fmt.Errorf("cannot understand the state of process %d: %q", pid, text)
	}
	if parent, err = strconv.Atoi(fields[ppid]); err != nil {
		return 0, 0, err
	}
	for _, field := range fields[utime : cstime+1] {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, 0, err
		}
		used += time.Duration(n) * (time.Second / 100) // USER_HZ
	}
	return used, parent, nil
}

// footprint is what a QEMU has of its own beside the guest's RAM.
func footprint(pid int) (int64, error) {
	s, err := proc.ReadStatus(pid)
	return int64(s.RSSAnon + s.PageTables), err
}
