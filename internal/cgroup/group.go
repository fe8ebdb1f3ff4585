package cgroup

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"qlive/vmstate"
)

// Group is the cgroup of a VM. It holds its folder open until Close.
type Group struct {
	dir *os.File
}

// Make makes the cgroup of a VM, or takes the one that it has, and sets the limits. Errors are of Kind Unsupported (a limit that cannot be kept
// here), Invalid (one that the kernel does not take) or Host.
func (p *Parent) Make(vm string, limits vmstate.Limits) (*Group, error) {
	if err := p.need(vm, limits); err != nil {
		return nil, err
	}
	path := filepath.Join(p.dir, vm)
	if err := os.Mkdir(path, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, vmstate.Errorf(vmstate.Host, "cannot make the cgroup of %s: %w", vm, err).With("see cgroup.max.descendants of the cgroups above it")
	}
	g, err := Find(path)
	if err != nil {
		return nil, err
	}
	if procs, err := g.read("cgroup.procs"); err != nil || procs != "" {
		others := vmstate.Errorf(vmstate.Conflict, "cannot use the cgroup %s for %s: there are processes in it: %s", path, vm, strings.Join(strings.Fields(procs), " ")).
			With("end them, or give this daemon another `cgroup:` in its configuration")
		return nil, errors.Join(others, err, g.Close())
	}
	if err := g.limit(limits); err != nil {
		return nil, errors.Join(err, g.Remove())
	}
	return g, nil
}

// Find takes a cgroup that is there. The error is of Kind NotFound if it is not.
func Find(path string) (*Group, error) {
	fd, err := unix.Open(path, unix.O_DIRECTORY|unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil, vmstate.Errorf(vmstate.NotFound, "cannot find the cgroup %s: it does not exist", path)
	}
	if err != nil {
		return nil, vmstate.Errorf(vmstate.Host, "cannot open the cgroup %s: %w", path, err)
	}
	return &Group{dir: os.NewFile(uintptr(fd), path)}, nil
}

// limit sets all limits, and takes back those that are not asked for.
func (g *Group) limit(l vmstate.Limits) error {
	const period = 100_000 // µs, the kernel's own
	cpu := "max"
	if l.CPUPercent != 0 {
		cpu = strconv.FormatInt(int64(l.CPUPercent)*period/100, 10) + " " + strconv.Itoa(period)
	}
	for _, set := range []struct {
		file, value string
		asked       bool
	}{
		{"memory.max", orMax(l.MemoryBytes), l.MemoryBytes != 0},
		// Else what is over the limit would go to swap, guest RAM first of all.
		{"memory.swap.max", "0", l.MemoryBytes != 0},
		{"cpu.max", cpu, l.CPUPercent != 0},
		{"pids.max", orMax(uint64(l.Processes)), l.Processes != 0},
	} {
		err := write(filepath.Join(g.Path(), set.file), set.value)
		optional := set.file == "memory.swap.max" && errors.Is(err, fs.ErrNotExist) // a kernel without swap
		switch {
		case err == nil, optional, !set.asked && errors.Is(err, fs.ErrNotExist):
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ERANGE):
			return vmstate.Errorf(vmstate.Invalid, "cannot set %s of %s to %s: %w", set.file, g.Path(), set.value, err).With("see the limits of the request")
		default:
			return vmstate.Errorf(vmstate.Host, "cannot set %s of %s to %s: %w", set.file, g.Path(), set.value, err)
		}
	}
	return nil
}

func orMax(n uint64) string {
	if n == 0 {
		return "max"
	}
	return strconv.FormatUint(n, 10)
}

// Path is the folder of the cgroup; empty for none.
func (g *Group) Path() string {
	if g == nil {
		return ""
	}
	return g.dir.Name()
}

// Folder is the descriptor that a process is born into (CLONE_INTO_CGROUP). It belongs to g.
func (g *Group) Folder() *os.File { return g.dir }

// Close lets go of the cgroup, which stays.
func (g *Group) Close() error { return g.dir.Close() }

// Remove removes the cgroup and lets go of it. One in which a process lives yet stays, and that is an error of Kind Busy.
func (g *Group) Remove() error {
	err := unix.Rmdir(g.Path())
	closeErr := g.Close()
	switch {
	case err == nil, errors.Is(err, unix.ENOENT):
		return closeErr
	case errors.Is(err, unix.EBUSY):
		return errors.Join(vmstate.Errorf(vmstate.Busy, "cannot remove the cgroup %s: processes live in it", g.Path()), closeErr)
	}
	return errors.Join(vmstate.Errorf(vmstate.Host, "cannot remove the cgroup %s: %w", g.Path(), err), closeErr)
}

// Usage is what a cgroup uses of what it may use. A limit that is not set is 0, and so is what the kernel does not count here.
type Usage struct {
	MemoryBytes, MemoryLimit uint64
	ReclaimableBytes         uint64 // of MemoryBytes: file pages that the kernel gives up when memory is short
	Processes, ProcessLimit  uint64 // threads, as the pids controller counts
	OOMKills                 uint64 // processes that were killed for want of memory
}

// FreeMemory is how many bytes more the cgroup may use, and whether it has a limit.
func (u Usage) FreeMemory() (bytes uint64, limited bool) {
	if u.MemoryLimit == 0 {
		return 0, false
	}
	held := u.MemoryBytes - min(u.ReclaimableBytes, u.MemoryBytes)
	return u.MemoryLimit - min(held, u.MemoryLimit), true
}

// Usage reads what the cgroup uses now. The error is of Kind Host.
func (g *Group) Usage() (Usage, error) {
	var u Usage
	for _, v := range []struct {
		file string
		into *uint64
	}{{"memory.current", &u.MemoryBytes}, {"memory.max", &u.MemoryLimit}, {"pids.current", &u.Processes}, {"pids.max", &u.ProcessLimit}} {
		text, err := g.read(v.file)
		if err == nil && text != "" {
			*v.into, err = number(text)
		}
		if err != nil {
			return Usage{}, vmstate.Errorf(vmstate.Host, "cannot read what %s uses: %s: %w", g.Path(), v.file, err)
		}
	}
	for file, into := range map[string]map[string]*uint64{
		"memory.stat":   {"inactive_file": &u.ReclaimableBytes, "active_file": &u.ReclaimableBytes},
		"memory.events": {"oom_kill": &u.OOMKills},
	} {
		text, err := g.read(file)
		if err == nil {
			err = addKeyed(text, into)
		}
		if err != nil {
			return Usage{}, vmstate.Errorf(vmstate.Host, "cannot read what %s uses: %s: %w", g.Path(), file, err)
		}
	}
	return u, nil
}

// read reads a file of the cgroup; one that its controllers do not have is empty.
func (g *Group) read(name string) (string, error) {
	b, err := os.ReadFile(filepath.Join(g.Path(), name))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return strings.TrimSpace(string(b)), err
}

// number reads a value of a cgroup; max is 0.
func number(text string) (uint64, error) {
	if text == "max" {
		return 0, nil
	}
	return strconv.ParseUint(text, 10, 64)
}

// addKeyed adds up the values of a flat keyed file, lines of a name and a number.
func addKeyed(text string, into map[string]*uint64) error {
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		to := into[name]
		if to == nil {
			continue
		}
		n, err := strconv.ParseUint(value, 10, 64)
		if err != nil {
			return err
		}
		*to += n
	}
	return nil
}
