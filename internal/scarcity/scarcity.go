package scarcity

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"qlive/internal/proc"
	"qlive/vmstate"
)

// Explain makes of an error that says that something is used up one of Kind Exhausted with the numbers. Any other error, and nil, it gives back
// as it is. It opens no file that it can do without: there may be no descriptor for one.
func Explain(err error) error {
	for _, s := range []struct {
		errno   unix.Errno
		numbers func() string
		remedy  string
	}{
		{unix.EMFILE, descriptors, "raise the daemon's limit (LimitNOFILE= in its unit), or have it look after fewer guests"},
		{unix.ENFILE, func() string { return "the whole host has as many open files as it may (fs.file-max)" }, "raise fs.file-max (sysctl)"},
		{unix.ENOMEM, memory, "free memory on the host, or make the guest smaller"},
		{unix.EAGAIN, processes, "raise pids.max, RLIMIT_NPROC (ulimit -u) or kernel.threads-max, whichever it is"},
	} {
		if errors.Is(err, s.errno) {
			return withNumbers(err, s.errno, s.numbers(), s.remedy)
		}
	}
	return err
}

func withNumbers(err error, errno unix.Errno, numbers, remedy string) error {
	e, ok := errors.AsType[*vmstate.Error](err)
	if !ok {
		e = &vmstate.Error{Detail: err.Error()}
	}
	if errno == unix.EAGAIN && e.Kind != vmstate.Exhausted { // it means other things as well
		return err
	}
	if errno == unix.ENOMEM && e.Kind == vmstate.Exhausted && e.Remedy != "" { // a pool of huge pages, say, which has its own numbers and remedy
		return err
	}
	out := *e
	out.Kind, out.Err = vmstate.Exhausted, err
	if !strings.Contains(out.Detail, numbers) {
		out.Detail += ": " + numbers
	}
	out.Remedy = remedy
	return &out
}

func descriptors() string {
	var l unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &l) != nil {
		return "this daemon has all the descriptors open that it may have (RLIMIT_NOFILE)"
	}
	return fmt.Sprintf("this daemon has all %d descriptors open that it may have (RLIMIT_NOFILE)", l.Cur)
}

func memory() string {
	var i unix.Sysinfo_t
	if unix.Sysinfo(&i) != nil {
		return "the host has no memory left"
	}
	unit := uint64(i.Unit)
	return fmt.Sprintf("the host has %d MiB of memory, %d MiB of them unused", i.Totalram*unit>>20, i.Freeram*unit>>20)
}

func processes() string {
	var numbers []string
	var l unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NPROC, &l) == nil && l.Cur != unix.RLIM_INFINITY {
		numbers = append(numbers, fmt.Sprintf("a user may have %d processes and threads (RLIMIT_NPROC)", l.Cur))
	}
	if text, err := os.ReadFile("/proc/sys/kernel/threads-max"); err == nil {
		numbers = append(numbers, "the host "+strings.TrimSpace(string(text)))
	}
	return strings.Join(numbers, ", ")
}

// Descriptors is an error of Kind Exhausted unless this process may open so many descriptors more: whoever begins something that needs many asks
// first, so that the last ones are left for those who only want to look.
func Descriptors(what string, need int) error {
	open, limit, err := openDescriptors()
	if err != nil || open+need <= limit {
		return Explain(err)
	}
	return vmstate.Errorf(vmstate.Exhausted, "cannot %s: this daemon has %d of the %d descriptors open that it may have, and that takes up to %d", what, open, limit, need).
		With("raise the daemon's limit (LimitNOFILE= in its unit), or have it look after fewer guests")
}

func openDescriptors() (open, limit int, err error) {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return 0, 0, vmstate.Errorf(vmstate.Host, "cannot read the limit of descriptors: %w", err)
	}
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0, 0, vmstate.Errorf(vmstate.Host, "cannot count the open descriptors: %w", err)
	}
	return len(names) - 1, int(min(l.Cur, 1<<30)), nil // one of them was for counting
}

// Memory is an error of Kind Exhausted unless the host has so many bytes available (MemAvailable).
func Memory(what string, need uint64) error {
	m, err := proc.ReadMeminfo()
	if err != nil {
		return vmstate.Errorf(vmstate.Host, "cannot %s: %w", what, err)
	}
	if m.Available >= need {
		return nil
	}
	return vmstate.Errorf(vmstate.Exhausted, "cannot %s: that takes about %s of memory, and the host has %s available", what, MiB(need), MiB(m.Available)).
		With("free memory on the host")
}

// MiB writes a number of bytes.
func MiB(bytes uint64) string { return strconv.FormatUint((bytes+1<<20-1)>>20, 10) + " MiB" }
