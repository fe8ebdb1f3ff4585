package foreign

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"qlive/internal/proc"
	"qlive/internal/qemu"
	"qlive/internal/qemu/cmdline"
	"qlive/vmstate"
)

// Process is what the kernel says of a process.
type Process struct {
	ID qemu.Identity
	// Binary is the program as a path, absolute where it could be found out; Args are what follows it on the command line.
	Binary string
	Args   []string
	// File is the program that runs. It is zero if no path leads to it any more.
	File   qemu.FileID
	Env    []string
	Dir    string // working directory
	Cgroup string // of the unified hierarchy, relative to its mount point
	UID    int    // effective
	GID    int
	Groups []uint32
	// Apart are the kinds of namespaces (mnt, net, …) in which it is not where this process is.
	Apart       []string
	Affinity    []int // CPUs that its first thread may use
	OOMScoreAdj int
	Memory      proc.Status
}

// namespaces are the kinds that decide what a path, a socket or a number means.
var namespaces = [...]string{"mnt", "net", "pid", "user", "ipc"}

// Inspect reads what the kernel says of a process. The error is of kind NotFound if there is none, Denied if it must not be looked at.
func Inspect(pid int) (*Process, error) {
	stat, err := proc.ReadStat(pid)
	if err != nil || stat.Ended() {
		return nil, vmstate.Errorf(vmstate.NotFound, "cannot adopt process %d: there is none of that number", pid).With("pgrep -a qemu shows the QEMUs that run")
	}
	p := &Process{ID: qemu.Identity{PID: pid, Start: stat.Start}}
	if err := p.read(); err != nil {
		if errors.Is(err, fs.ErrPermission) {
			return nil, vmstate.Errorf(vmstate.Denied, "cannot look at process %d: %w", pid, err).With("run the daemon as root")
		}
		return nil, vmstate.Errorf(vmstate.Host, "cannot look at process %d: %w", pid, err).With("look whether it still runs")
	}
	if again, err := proc.ReadStat(pid); err != nil || again.Start != stat.Start { // another one has its number
		return nil, vmstate.Errorf(vmstate.NotFound, "cannot adopt process %d: it has ended", pid).With("pgrep -a qemu shows the QEMUs that run")
	}
	return p, nil
}

func (p *Process) read() error {
	line, err := proc.ReadCmdline(p.ID.PID)
	if err != nil {
		return err
	}
	if len(line) == 0 {
		return errors.New("it has no command line: it is a thread of the kernel, or has ended")
	}
	p.Binary, p.Args = cmdline.Command(words(line))
	for _, into := range []struct {
		name string
		text *string
	}{{"exe", nil}, {"cwd", &p.Dir}} {
		link, err := os.Readlink(p.path(into.name))
		switch {
		case err != nil:
			return err
		case into.text != nil:
			*into.text = link
		default:
			p.findBinary(link)
		}
	}
	env, err := os.ReadFile(p.path("environ"))
	if err != nil {
		return err
	}
	p.Env = words(env)
	return errors.Join(p.readStatus(), p.readCgroup(), p.readNamespaces(), p.readAffinity())
}

// words cuts a text whose parts each end with a zero byte.
func words(text []byte) []string {
	if len(text) == 0 {
		return nil
	}
	return strings.Split(strings.TrimSuffix(string(text), "\x00"), "\x00")
}

// findBinary finds the path of the program: that of the file that runs, unless that is the dynamic loader.
func (p *Process) findBinary(exe string) {
	if binary, _ := cmdline.Command([]string{exe}); binary != "" { // it is not the loader
		p.Binary = strings.TrimSuffix(exe, " (deleted)")
		if id, err := qemu.Identify(p.path("exe")); err == nil {
			p.File = id
		}
		return
	}
	if !filepath.IsAbs(p.Binary) && strings.Contains(p.Binary, "/") {
		p.Binary = filepath.Join(p.Dir, p.Binary)
	}
	if id, err := qemu.Identify(p.Binary); err == nil {
		p.File = id
	}
}

// whole are its arguments with the options of the files that they name (-readconfig), as those files are now.
func (p *Process) whole() ([]string, error) {
	configs, err := qemu.ReadConfigs(p.Args, p.Dir)
	if err != nil {
		return nil, err
	}
	return cmdline.Inline(p.Args, configs)
}

// Unchanged tells whether the file at the program's path is the one that runs.
func (p *Process) Unchanged() bool {
	id, err := qemu.Identify(p.Binary)
	return err == nil && id == p.File
}

func (p *Process) path(name string) string { return "/proc/" + strconv.Itoa(p.ID.PID) + "/" + name }

func (p *Process) readStatus() error {
	text, err := os.ReadFile(p.path("status"))
	if err != nil {
		return err
	}
	if p.Memory, err = proc.ParseStatus(string(text)); err != nil {
		return err
	}
	p.UID, p.GID, p.Groups, err = parseOwner(string(text))
	if err != nil {
		return err
	}
	score, err := os.ReadFile(p.path("oom_score_adj"))
	if err != nil {
		return err
	}
	p.OOMScoreAdj, err = strconv.Atoi(strings.TrimSpace(string(score)))
	return err
}

// parseOwner reads whom a process runs as from the text of its status file.
func parseOwner(text string) (uid, gid int, groups []uint32, err error) {
	uid, gid = -1, -1
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		fields := strings.Fields(value)
		switch name {
		case "Uid", "Gid": // real, effective, saved, of the file system
			if len(fields) < 2 {
				return 0, 0, nil, fmt.Errorf("cannot understand the line %q", line)
			}
			n, err := strconv.ParseUint(fields[1], 10, 32)
			if err != nil {
				return 0, 0, nil, fmt.Errorf("cannot understand the line %q", line)
			}
			if name == "Uid" {
				uid = int(n)
			} else {
				gid = int(n)
			}
		case "Groups":
			for _, f := range fields {
				n, err := strconv.ParseUint(f, 10, 32)
				if err != nil {
					return 0, 0, nil, fmt.Errorf("cannot understand the line %q", line)
				}
				groups = append(groups, uint32(n))
			}
		}
	}
	if uid < 0 || gid < 0 {
		return 0, 0, nil, errors.New("cannot find Uid and Gid in the status of the process")
	}
	return uid, gid, groups, nil
}

func (p *Process) readCgroup() error {
	text, err := os.ReadFile(p.path("cgroup"))
	if err != nil {
		return err
	}
	p.Cgroup = parseCgroup(string(text))
	return nil
}

// parseCgroup is the cgroup in the unified hierarchy (cgroups(7)), empty if the process is in none.
func parseCgroup(text string) string {
	for line := range strings.Lines(text) {
		if path, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::"); ok {
			return path
		}
	}
	return ""
}

func (p *Process) readNamespaces() error {
	for _, kind := range namespaces {
		theirs, err := os.Readlink(p.path("ns/" + kind))
		if err != nil {
			return err
		}
		if ours, err := os.Readlink("/proc/self/ns/" + kind); err != nil || ours != theirs {
			p.Apart = append(p.Apart, kind)
		}
	}
	return nil
}

func (p *Process) readAffinity() error {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(p.ID.PID, &set); err != nil {
		return err
	}
	for cpu := range len(set) * 64 {
		if set.IsSet(cpu) {
			p.Affinity = append(p.Affinity, cpu)
		}
	}
	return nil
}

// Ranges writes numbers that rise as the kernel does, such as 0-3,8.
func Ranges(numbers []int) string {
	var parts []string
	for i := 0; i < len(numbers); {
		j := i
		for j+1 < len(numbers) && numbers[j+1] == numbers[j]+1 {
			j++
		}
		part := strconv.Itoa(numbers[i])
		if j > i {
			part += "-" + strconv.Itoa(numbers[j])
		}
		parts, i = append(parts, part), j+1
	}
	return strings.Join(parts, ",")
}

// Owner is the user that it runs as, as a QEMU beside it is to run; nil for root.
func (p *Process) Owner() (*qemu.User, error) {
	if p.UID == 0 {
		return nil, nil //nolint:nilnil // as qemu.LookUpUser has it
	}
	u, err := qemu.LookUpUser(strconv.Itoa(p.UID))
	if err != nil {
		return nil, err
	}
	if u != nil {
		u.GID, u.Groups = p.GID, slices.Clone(p.Groups)
	}
	return u, nil
}
