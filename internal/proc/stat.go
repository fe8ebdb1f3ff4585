package proc

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// Stat is what /proc/PID/stat says of a process.
type Stat struct {
	PID    int
	Name   string // of the executable, at most 15 bytes
	State  byte   // R running, S sleeping, D waiting, T stopped, t traced, Z dead and not yet waited for, X gone
	Parent int
	User   time.Duration // CPU time, to a hundredth of a second
	System time.Duration
	// Start is when the process started, in hundredths of a second since the host's boot. With the number it names
	// a process for good, since numbers are used again.
	Start uint64
}

// Ended tells whether the process has ended and only waits to be waited for.
func (s Stat) Ended() bool { return s.State == 'Z' || s.State == 'X' || s.State == 'x' }

// ticks is the kernel's USER_HZ, which is 100 on every architecture that runs QEMU.
const ticks = 100

// ReadStat reads the state of a process. The error is [os.ErrNotExist] if there is none.
func ReadStat(pid int) (Stat, error) {
	b, err := os.ReadFile(file(pid, "stat"))
	if err != nil {
		return Stat{}, fmt.Errorf("cannot read the state of process %d: %w", pid, err)
	}
	return ParseStat(string(b))
}

// ParseStat reads the text of a stat file. The name in it may hold spaces and parentheses.
func ParseStat(text string) (Stat, error) {
	bad := func() (Stat, error) { return Stat{}, fmt.Errorf("cannot understand the state %q", text) }
	open, last := strings.IndexByte(text, '('), strings.LastIndexByte(text, ')')
	if open < 0 || last < open {
		return bad()
	}
	pid, err := strconv.Atoi(strings.TrimSpace(text[:open]))
	// What follows the name: field 3 of proc(5) is rest[0].
	rest := strings.Fields(text[last+1:])
	const state, parent, utime, stime, start = 0, 1, 11, 12, 19
	if err != nil || len(rest) <= start || len(rest[state]) != 1 || !isLetter(rest[state][0]) {
		return bad()
	}
	s := Stat{PID: pid, Name: text[open+1 : last], State: rest[state][0]}
	var user, system uint64
	for _, n := range []struct {
		text string
		into *uint64
	}{{rest[utime], &user}, {rest[stime], &system}, {rest[start], &s.Start}} {
		if *n.into, err = strconv.ParseUint(n.text, 10, 64); err != nil {
			return bad()
		}
	}
	if s.Parent, err = strconv.Atoi(rest[parent]); err != nil {
		return bad()
	}
	const most = uint64(1 << 39) // more years than a process lives, and what a Duration holds
	s.User = time.Duration(min(user, most)) * (time.Second / ticks)
	s.System = time.Duration(min(system, most)) * (time.Second / ticks)
	return s, nil
}

func isLetter(b byte) bool { return 'A' <= b && b <= 'Z' || 'a' <= b && b <= 'z' }

// StartedAt is when a process began whose start is that, in ticks since boot, by the clock of now; good to some hundredths of a second.
func StartedAt(start uint64) (time.Time, error) {
	text, err := os.ReadFile("/proc/uptime")
	if err != nil {
		return time.Time{}, fmt.Errorf("cannot see how long the host has been up: %w", err)
	}
	first, _, _ := strings.Cut(string(text), " ")
	up, err := strconv.ParseFloat(first, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("cannot understand how long the host has been up: %q", text)
	}
	return time.Now().UTC().Add(-time.Duration((up - float64(start)/ticks) * float64(time.Second))), nil
}

// Status is what /proc/PID/status says of a process' memory, in bytes. A process that has ended has none: all is 0.
type Status struct {
	RSSAnon     uint64 // private pages in memory
	RSSFile     uint64 // pages of files
	RSSShmem    uint64 // pages of memfds, tmpfs and shared anonymous memory
	HugetlbPage uint64 // huge pages, whoever owns them
	PageTables  uint64
	Swap        uint64
	Threads     int
}

// ReadStatus reads the memory of a process. The error is [os.ErrNotExist] if there is none.
func ReadStatus(pid int) (Status, error) {
	b, err := os.ReadFile(file(pid, "status"))
	if err != nil {
		return Status{}, fmt.Errorf("cannot read the memory of process %d: %w", pid, err)
	}
	return ParseStatus(string(b))
}

// ParseStatus reads the text of a status file.
func ParseStatus(text string) (Status, error) {
	var s Status
	var threads uint64
	values := map[string]*uint64{
		"RssAnon": &s.RSSAnon, "RssFile": &s.RSSFile, "RssShmem": &s.RSSShmem, "HugetlbPages": &s.HugetlbPage,
		"VmPTE": &s.PageTables, "VmSwap": &s.Swap, "Threads": &threads,
	}
	if err := parseValues(text, values); err != nil {
		return Status{}, err
	}
	s.Threads = int(min(threads, 1<<30))
	return s, nil
}

// parseValues reads lines such as "RssAnon:  12 kB" for the names in values; kB become bytes.
func parseValues(text string, values map[string]*uint64) error {
	for line := range strings.Lines(text) {
		name, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		into := values[name]
		if !ok || into == nil {
			continue
		}
		value = strings.TrimSpace(value)
		number, isKB := strings.CutSuffix(value, " kB")
		n, err := strconv.ParseUint(number, 10, 64)
		if err != nil || isKB && n > 1<<53 {
			return fmt.Errorf("cannot understand the line %q", line)
		}
		if isKB {
			n *= 1024
		}
		*into = n
	}
	return nil
}
