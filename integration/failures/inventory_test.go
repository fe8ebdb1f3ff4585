package failures_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"qlive/internal/proc"
	"qlive/vmstate"
)

// inventory is everything that a handoff which came to nothing must leave as it was.
type inventory struct {
	Status     vmstate.Status
	RunState   string
	PID        int
	Generation int
	Processes  []int          // children of the daemon, which lives in the test's own process
	Holders    []int          // who has the guest's RAM open
	Folder     []string       // of the VM in the run directory
	Daemon     map[string]int // descriptors, by what they are
	Source     map[string]int
}

// owned makes sure that the regions are shown as the source's alone.
func (s *scene) owned(t *testing.T) {
	t.Helper()
	vm := s.vm.Show()
	for _, r := range vm.Regions {
		if want := r.Reset(vm.PID); r != want {
			t.Errorf("region %+v, want %+v", r, want)
		}
	}
}

// look takes stock.
func (s *scene) look(t *testing.T) inventory {
	t.Helper()
	vm := s.vm.Show()
	s.Client.Close() // connections that wait for another request are no leak
	i := inventory{
		Status: vm.Status, RunState: vm.RunState, PID: vm.PID, Generation: vm.Generation,
		Processes: children(), Daemon: descriptors(t, os.Getpid(), s.Socket), Source: descriptors(t, vm.PID, ""),
	}
	for _, r := range vm.Regions {
		i.Holders = append(i.Holders, holders(r.Inode)...)
	}
	dir := filepath.Join(s.Dir, "run/vms", s.vm.Name)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		name := strings.TrimPrefix(path, dir)
		if name == "/migrations" { // each that has ended is remembered there, the last few of them
			return fs.SkipDir
		}
		if err == nil {
			i.Folder = append(i.Folder, name)
		}
		return nil // a file may go while we look
	})
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// noFewer takes what the daemon had open for a moment as it was looked at before, and has closed since, for nothing: only more is a leak.
func (i inventory) noFewer(before inventory) inventory {
	for what, n := range before.Daemon {
		i.Daemon[what] = max(i.Daemon[what], n)
	}
	return i
}

var numbers = regexp.MustCompile(`[0-9]+`)

// descriptors counts what a process has open, by kind: sockets and pipes are alike, files go by their path. Connections to the socket
// at busy are left out: REST's come and go.
func descriptors(t *testing.T, pid int, busy string) map[string]int {
	t.Helper()
	count := map[string]int{}
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	connections := socketsAt(t, busy)
	for _, e := range entries {
		link, err := os.Readlink(filepath.Join(dir, e.Name()))
		if err != nil || link == dir || slices.Contains(connections, link) {
			continue // closed meanwhile, or the one that reads the folder
		}
		if !filepath.IsAbs(link) {
			link = numbers.ReplaceAllString(link, "N")
		}
		if link == "anon_inode:[eventfd]" {
			continue // devices of a guest that stands have fewer
		}
		count[link]++
	}
	return count
}

// socketsAt are the unix sockets with a path, as a descriptor's link names them.
func socketsAt(t *testing.T, path string) []string {
	t.Helper()
	text, err := os.ReadFile("/proc/net/unix")
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) == 8 && f[7] == path {
			list = append(list, "socket:["+f[6]+"]")
		}
	}
	return list
}

// children are the processes that this process has started and not yet buried.
func children() []int {
	var list []int
	stats, _ := proc.Children(os.Getpid()) // /proc is always there
	for _, s := range stats {
		list = append(list, s.PID)
	}
	slices.Sort(list)
	return list
}

// holders are the processes that have a memfd of that inode open.
func holders(inode uint64) []int {
	return openers(func(link string, stat *syscall.Stat_t) bool {
		return strings.HasPrefix(link, "/memfd:") && stat.Ino == inode
	})
}

// openers are the processes with a descriptor of which is says so, each once.
func openers(is func(link string, stat *syscall.Stat_t) bool) []int {
	var list []int
	for _, pid := range processes() {
		fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
		if err != nil {
			continue
		}
		for _, fd := range fds {
			link, err := os.Readlink(fd)
			if err != nil || strings.HasPrefix(link, "/") && !strings.HasPrefix(link, "/memfd:") {
				continue // gone, or a file, which might hang
			}
			info, err := os.Stat(fd)
			if err != nil {
				continue
			}
			if stat, ok := info.Sys().(*syscall.Stat_t); ok && is(link, stat) {
				list = append(list, pid)
				break
			}
		}
	}
	return list
}

func processes() []int {
	list, _ := proc.PIDs() // /proc is always there
	slices.Sort(list)
	return list
}
