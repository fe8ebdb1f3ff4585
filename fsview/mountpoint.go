package fsview

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"qlive/vmstate"
)

// probeTimeout is how long a file system that is in the way may take to answer.
const probeTimeout = 2 * time.Second

// mountPoint makes sure that the tree can be mounted on dir, and gives its path without symbolic links.
//
// The mount table is asked before dir itself is touched: whoever touches the mount of a daemon that is
// stopped, or hangs, waits for it.
func mountPoint(ctx context.Context, dir string, log zerolog.Logger) (string, error) {
	dir, err := resolve(dir)
	if err != nil {
		return "", err
	}
	for {
		m, found, err := mountedOn(dir)
		if err != nil {
			return "", vmstate.Errorf(vmstate.Host, "cannot read the mount table: %w", err)
		}
		if !found {
			return dir, checkFolder(dir)
		}
		if err := checkStale(ctx, m); err != nil {
			return "", err
		}
		if err := unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			return "", vmstate.Errorf(vmstate.Host, "cannot clear away the tree that a dead daemon left on %s: %w", dir, err).
				With("umount -l " + dir)
		}
		log.Info().Str("dir", dir).Msg("tree of a dead daemon detached")
	}
}

// resolve follows all symbolic links in dir, without touching dir itself if something is mounted on it.
func resolve(dir string) (string, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", vmstate.Errorf(vmstate.Host, "cannot find %s: %w", dir, err)
	}
	parent, err := filepath.EvalSymlinks(filepath.Dir(abs))
	if err != nil {
		return "", missing(dir, err)
	}
	direct := filepath.Join(parent, filepath.Base(abs))
	if _, found, err := mountedOn(direct); err == nil && found {
		return direct, nil
	}
	resolved, err := filepath.EvalSymlinks(direct)
	if err != nil {
		return "", missing(dir, err)
	}
	return resolved, nil
}

func missing(dir string, err error) error {
	kind := vmstate.Host
	if errors.Is(err, fs.ErrNotExist) {
		kind = vmstate.NotFound
	}
	return vmstate.Errorf(kind, "cannot mount the tree on %s: %w", dir, err).With("mkdir -p " + dir)
}

// checkFolder makes sure that nothing would be hidden by a mount on dir.
func checkFolder(dir string) error {
	entries, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, unix.ENOTDIR):
		return vmstate.Errorf(vmstate.Conflict, "cannot mount the tree on %s: it is not a folder", dir).
			With("name an empty folder")
	case err != nil:
		return missing(dir, err)
	case len(entries) > 0:
		return vmstate.Errorf(vmstate.Conflict, "cannot mount the tree on %s: the folder is not empty, it contains %q", dir, entries[0].Name()).
			With("name an empty folder, or clear this one")
	}
	return nil
}

// checkStale makes sure that m is a tree whose daemon is dead.
func checkStale(ctx context.Context, m mountEntry) error {
	if m.fsType != fsType {
		return vmstate.Errorf(vmstate.Conflict, "cannot mount the tree on %s: a file system of type %s is mounted there", m.dir, m.fsType).
			With("name another folder, or umount " + m.dir)
	}
	answer := make(chan error, 1)
	go func() { // left behind if the other daemon is stopped; ends when that one goes on or dies
		var st unix.Statfs_t
		answer <- unix.Statfs(m.dir, &st)
	}()
	wait, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	select {
	case err := <-answer:
		if errors.Is(err, unix.ENOTCONN) || errors.Is(err, unix.ECONNABORTED) {
			return nil
		}
		return vmstate.Errorf(vmstate.Conflict, "cannot mount the tree on %s: another qlive daemon serves its tree there", m.dir).
			With("stop that daemon, or name another folder")
	case <-wait.Done():
		return vmstate.Errorf(vmstate.Conflict, "cannot mount the tree on %s: another qlive daemon's tree is there and does not answer", m.dir).
			With("look after that daemon; once it is dead, umount -l " + m.dir)
	}
}

// mountFUSE mounts a FUSE file system on dir and gives the descriptor to serve it with, which no child
// process inherits.
func mountFUSE(dir string, allowOther bool) (int, error) {
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return -1, vmstate.Errorf(vmstate.Unsupported, "cannot open /dev/fuse: %w", err).With("modprobe fuse")
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return -1, vmstate.Errorf(vmstate.Denied, "cannot open /dev/fuse: %w", err).With("run the daemon as root")
	case err != nil:
		return -1, vmstate.Errorf(vmstate.Host, "cannot open /dev/fuse: %w", err)
	}
	options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=%d,group_id=%d,default_permissions,max_read=%d",
		fd, os.Geteuid(), os.Getegid(), maxRead)
	if allowOther {
		options += ",allow_other"
	}
	err = unix.Mount("qlive", dir, fsType, unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, options)
	if err == nil {
		return fd, nil
	}
	unix.Close(fd)
	if errors.Is(err, unix.EPERM) {
		return -1, vmstate.Errorf(vmstate.Denied, "cannot mount the tree on %s: %w", dir, err).With("run the daemon as root")
	}
	return -1, vmstate.Errorf(vmstate.Host, "cannot mount the tree on %s: %w", dir, err)
}

// mountEntry is a line of the mount table.
type mountEntry struct {
	dev    uint64 // of its files
	dir    string
	fsType string
}

// mountedOn finds what is mounted on dir itself, the topmost if there are several.
func mountedOn(dir string) (m mountEntry, found bool, err error) {
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return mountEntry{}, false, err
	}
	for _, entry := range parseMountinfo(table) {
		if entry.dir == dir {
			m, found = entry, true // later ones lie above earlier ones
		}
	}
	return m, found, nil
}

// parseMountinfo reads the kernel's mount table, see proc_pid_mountinfo(5). Lines that it cannot read are left out.
func parseMountinfo(table []byte) []mountEntry {
	var all []mountEntry
	for line := range strings.Lines(string(table)) {
		before, after, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " - ")
		// Not strings.Fields: the kernel escapes blanks, but no other spaces that Unicode has.
		fields, kind := strings.Split(before, " "), strings.Split(after, " ")
		if !ok || len(fields) < 6 {
			continue
		}
		var major, minor uint32
		if _, err := fmt.Sscanf(fields[2], "%d:%d", &major, &minor); err != nil {
			continue
		}
		all = append(all, mountEntry{dev: unix.Mkdev(major, minor), dir: unescape(fields[4]), fsType: unescape(kind[0])})
	}
	return all
}

// unescape undoes the kernel's \040 for blanks and the like.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) && octal(s[i+1]) && octal(s[i+2]) && octal(s[i+3]) {
			b.WriteByte((s[i+1]-'0')<<6 | (s[i+2]-'0')<<3 | (s[i+3] - '0'))
			i += 3
			continue
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func octal(c byte) bool { return '0' <= c && c <= '7' }
