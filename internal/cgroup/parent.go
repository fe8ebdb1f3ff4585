package cgroup

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"qlive/internal/proc"
	"qlive/vmstate"
)

// Mount is where cgroup v2 is mounted, in this process' eyes. The error is of Kind Unsupported if it is not.
func Mount() (string, error) {
	mounts, err := proc.ReadMounts()
	if err != nil {
		return "", vmstate.Errorf(vmstate.Host, "cannot look for cgroups: %w", err)
	}
	i := slices.IndexFunc(mounts, func(m proc.Mount) bool { return m.Type == "cgroup2" })
	if i < 0 {
		return "", vmstate.Errorf(vmstate.Unsupported, "cannot make cgroups: no cgroup2 file system is mounted").
			With("mount -t cgroup2 none /sys/fs/cgroup")
	}
	return mounts[i].Point, nil
}

// Parent is the cgroup that those of VMs lie in.
type Parent struct {
	dir     string
	missing map[string]string // controllers that its children do not have, and why
}

// controllers are those that limits need.
func controllers() []string { return []string{"memory", "cpu", "pids"} }

// Open takes the cgroup called name below mount, made if need be, and turns on for its children the controllers that the kernel has. What of
// these cannot be had is no error before a limit needs it. Errors are of Kind Denied (somebody else manages the cgroups here) or Host.
func Open(mount, name string) (*Parent, error) {
	p := &Parent{dir: filepath.Join(mount, name), missing: map[string]string{}}
	if err := os.MkdirAll(p.dir, 0o755); err != nil {
		e := vmstate.Errorf(vmstate.Host, "cannot make the cgroup %s: %w", p.dir, err)
		if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.EROFS) {
			e.Kind = vmstate.Denied
		}
		return nil, e.With("run the daemon where it may make cgroups, or name another place with `cgroup:` in the configuration")
	}
	for _, c := range controllers() {
		if err := p.enable(mount, name, c); err != nil {
			p.missing[c] = err.Error()
		}
	}
	return p, nil
}

// enable turns a controller on in each cgroup from the mount point down to p, for the children of each.
func (p *Parent) enable(mount, name, controller string) error {
	at := mount
	for _, next := range append(strings.Split(filepath.Clean(name), "/"), "") {
		has, err := os.ReadFile(filepath.Join(at, "cgroup.controllers"))
		if err != nil {
			return err
		}
		if !slices.Contains(strings.Fields(string(has)), controller) {
			return errors.New(at + " has the controllers " + orNone(strings.TrimSpace(string(has))))
		}
		if err := write(filepath.Join(at, "cgroup.subtree_control"), "+"+controller); err != nil {
			return err
		}
		at = filepath.Join(at, next)
	}
	return nil
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

// Missing names the controllers that cannot be used here, and why.
func (p *Parent) Missing() []string {
	var list []string
	for _, c := range controllers() {
		if why, ok := p.missing[c]; ok {
			list = append(list, c+": "+why)
		}
	}
	return list
}

// Remove removes the parent if no cgroup of a VM is in it.
func (p *Parent) Remove() error {
	err := unix.Rmdir(p.dir)
	if err == nil || errors.Is(err, unix.EBUSY) || errors.Is(err, unix.ENOENT) {
		return nil
	}
	return vmstate.Errorf(vmstate.Host, "cannot remove the cgroup %s: %w", p.dir, err)
}

// need is an error if a limit of a VM cannot be kept.
func (p *Parent) need(vm string, l vmstate.Limits) error {
	for _, c := range []struct {
		name  string
		asked bool
	}{{"memory", l.MemoryBytes != 0}, {"cpu", l.CPUPercent != 0}, {"pids", l.Processes != 0}} {
		if why, gone := p.missing[c.name]; c.asked && gone {
			return vmstate.Errorf(vmstate.Unsupported, "cannot keep the limit of %s for %s: %s", c.name, vm, why).
				With("leave the limit out, or let cgroup v2 have the controller (systemd.unified_cgroup_hierarchy=1)")
		}
	}
	return nil
}

// write writes a value into a file of a cgroup in one go.
func write(path, value string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}
