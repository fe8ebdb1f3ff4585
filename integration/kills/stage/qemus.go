package stage

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"qlive/internal/proc"
)

// QEMU is a process that was seen to be a QEMU of a guest.
type QEMU struct {
	PID        int
	Start      uint64 // as of proc.Stat: with the number it names the process for good
	Generation int
	dead       bool
	threads    []string      // schedstat files of its vCPUs
	ran        time.Duration // what its vCPUs have had of the processors
}

// lives tells whether it does: a process that has ended and waits to be buried is dead.
func (q *QEMU) lives() bool {
	stat, err := proc.ReadStat(q.PID)
	return err == nil && stat.Start == q.Start && !stat.Ended()
}

// signal sends it a signal, by a pidfd that is certain to be its.
func (q *QEMU) signal(sig unix.Signal) error {
	fd, err := unix.PidfdOpen(q.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot hold process %d: %w", q.PID, err)
	}
	defer unix.Close(fd)
	if !q.lives() {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("cannot send %v to process %d: %w", sig, q.PID, err)
	}
	return nil
}

// hangs tells whether all of its threads stand still.
func (q *QEMU) hangs() bool {
	stat, err := proc.ReadStat(q.PID)
	return err == nil && stat.State == 'T'
}

// ranFor reads what the vCPUs have had of the processors. Their threads are found once they have their names (-name debug-threads=on).
func (q *QEMU) ranFor() (time.Duration, bool) {
	if q.threads == nil {
		q.threads = vcpus(q.PID)
	}
	var sum time.Duration
	for _, path := range q.threads {
		text, err := os.ReadFile(path)
		if err != nil {
			return 0, false // it is ending
		}
		word, _, _ := strings.Cut(string(text), " ")
		n, err := strconv.ParseInt(word, 10, 64)
		if err != nil {
			return 0, false
		}
		sum += time.Duration(n)
	}
	return sum, q.threads != nil
}

func vcpus(pid int) []string {
	names, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/comm", pid)) // the pattern is right
	var list []string
	for _, path := range names {
		name, err := os.ReadFile(path)
		if err == nil && (bytes.HasPrefix(name, []byte("CPU ")) || bytes.HasPrefix(name, []byte("ALL CPUs"))) {
			list = append(list, filepath.Join(filepath.Dir(path), "schedstat"))
		}
	}
	return list
}

// finder finds the QEMUs of a folder of VMs among all processes.
type finder struct {
	marks *regexp.Regexp // the folder of a generation in a command line
	looks map[int]int    // at a process that is none
}

func newFinder(vms, name string) *finder {
	return &finder{marks: regexp.MustCompile(regexp.QuoteMeta(filepath.Join(vms, name)) + `/g([0-9]+)/`), looks: make(map[int]int)}
}

// enoughLooks at a process tell that it is no QEMU: a child looks like its parent for a moment.
const enoughLooks = 100

// find gives the QEMUs that are not in known.
func (f *finder) find(known map[int]*QEMU) ([]*QEMU, error) {
	pids, err := proc.PIDs()
	if err != nil {
		return nil, err
	}
	var list []*QEMU
	there := make(map[int]int, len(pids))
	for _, pid := range pids {
		if known[pid] != nil && !known[pid].dead {
			continue
		}
		there[pid] = f.looks[pid] + 1
		if there[pid] > enoughLooks {
			continue
		}
		q, err := f.look(pid)
		if err != nil {
			return nil, err
		}
		if q != nil && (known[pid] == nil || known[pid].Start != q.Start) {
			list = append(list, q)
		}
	}
	f.looks = there
	return list, nil
}

// look gives the process as a QEMU, nil if it is none.
func (f *finder) look(pid int) (*QEMU, error) {
	line, err := proc.ReadCmdline(pid)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	found := f.marks.FindSubmatch(line)
	if found == nil || !bytes.Contains(line, []byte("qemu-system")) {
		return nil, nil
	}
	stat, err := proc.ReadStat(pid)
	if err != nil || stat.Ended() {
		return nil, nil //nolint:nilerr // it has ended meanwhile
	}
	generation, err := strconv.Atoi(string(found[1]))
	if err != nil {
		return nil, err
	}
	return &QEMU{PID: pid, Start: stat.Start, Generation: generation}, nil
}
