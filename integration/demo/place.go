package demo

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"qlive/internal/proc"
	"qlive/vmstate"
)

const (
	prefix = "qlive-demo-"
	// marker is in the environment of every process of a run: its value is the run's folder. QEMUs inherit it from the daemon.
	marker = "DEMO_OF_QLIVE"
)

// place is the folder of one run, and all that belongs to it.
type place struct {
	dir  string
	lock *os.File // held as long as the run lives
}

// newPlace makes a folder below base, and first tidies up after runs that were killed.
func newPlace(base string) (*place, error) {
	if base == "" {
		base = "/run" // short, and gone with a reboot
		if unix.Access(base, unix.W_OK) != nil {
			base = os.TempDir()
		}
	}
	base, err := filepath.Abs(base)
	const room = 40 // for what a path of a QEMU's socket adds, of the 107 bytes that it may have
	if longest := 107 - len("/"+prefix+"xxxx") - room; err == nil && len(base) > longest {
		return nil, vmstate.Errorf(vmstate.Invalid, "cannot use %s: the paths of sockets below it would be too long", base).
			With(fmt.Sprintf("choose a folder whose path has at most %d bytes", longest))
	}
	if err == nil {
		base, err = filepath.EvalSymlinks(base) // as /proc names mounts
	}
	if err != nil {
		return nil, vmstate.Errorf(vmstate.Host, "cannot make a folder: %w", err)
	}
	if err := sweep(base); err != nil {
		return nil, err
	}
	for {
		p := &place{dir: filepath.Join(base, prefix+strings.ToLower(rand.Text()[:4]))}
		err := os.Mkdir(p.dir, 0o700)
		if errors.Is(err, os.ErrExist) {
			continue
		}
		if err != nil {
			return nil, vmstate.Errorf(vmstate.Host, "cannot make a folder: %w", err)
		}
		if err := p.claim(); err != nil {
			return nil, errors.Join(err, os.RemoveAll(p.dir))
		}
		return p, nil
	}
}

// claim takes the folder's lock. It appears under its name only once it is held: a lock that nobody holds is a dead run's.
func (p *place) claim() error {
	f, err := os.OpenFile(p.file("lock.new"), os.O_RDWR|os.O_CREATE|unix.O_CLOEXEC, 0o600)
	if err == nil {
		p.lock = f
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	if err == nil {
		err = os.Rename(p.file("lock.new"), p.file("lock"))
	}
	if err != nil {
		return vmstate.Errorf(vmstate.Host, "cannot take the folder: %w", err)
	}
	return nil
}

// sweep tidies up after runs that were killed.
func sweep(base string) error {
	dirs, err := filepath.Glob(filepath.Join(base, prefix+"*"))
	if err != nil {
		return vmstate.Errorf(vmstate.Internal, "cannot look for earlier runs: %w", err)
	}
	for _, dir := range dirs {
		var st unix.Stat_t
		if unix.Lstat(dir, &st) != nil || st.Mode != unix.S_IFDIR|0o700 || int(st.Uid) != os.Geteuid() {
			continue // somebody else's
		}
		old := &place{dir: dir}
		if old.lock, err = os.OpenFile(old.file("lock"), os.O_RDWR|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0); err != nil {
			continue // just being made
		}
		if unix.Flock(int(old.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
			_ = old.lock.Close() // it lives
			continue
		}
		if err := old.remove(); err != nil {
			return err
		}
	}
	return nil
}

// file is the path of a file in the folder.
func (p *place) file(name string) string { return filepath.Join(p.dir, name) }

func (p *place) socket() string { return p.file("sock") }
func (p *place) config() string { return p.file("qlive.yaml") }
func (p *place) log() string    { return p.file("daemon.log") }

// tree is a path in the tree that the daemon mounts.
func (p *place) tree(names ...string) string {
	return filepath.Join(append([]string{p.dir, "mnt"}, names...)...)
}

// binary is the path of a QEMU.
func (p *place) binary(version string) string { return p.file("qemu-" + version) }

// environ is the environment of what runs here: nothing in it leads to another daemon.
func (p *place) environ() []string {
	var list []string
	for _, v := range os.Environ() {
		if name, _, _ := strings.Cut(v, "="); !strings.HasPrefix(name, "QLIVE_") && name != "PATH" && name != marker {
			list = append(list, v)
		}
	}
	return append(list, "QLIVE_SOCKET="+p.socket(), "PATH="+p.file("bin")+":"+os.Getenv("PATH"), marker+"="+p.dir)
}

// remove ends whatever process of the run is left, unmounts what is mounted, and removes the folder. A run that went well has
// ended its processes before.
func (p *place) remove() error {
	err := errors.Join(p.kill(), p.unmount())
	if err == nil {
		if err = os.RemoveAll(p.dir); err != nil {
			err = vmstate.Errorf(vmstate.Host, "cannot tidy up: %w", err).With("rm -r " + p.dir)
		}
	}
	return errors.Join(err, p.lock.Close())
}

// killLimit is how long processes that were killed may take to be gone.
const killLimit = 10 * time.Second

// kill kills the processes whose environment names the folder, and waits until there is none.
func (p *place) kill() error {
	deadline := time.Now().Add(killLimit)
	for {
		left, err := p.processes()
		if err != nil {
			return vmstate.Errorf(vmstate.Host, "cannot look for processes: %w", err)
		}
		if len(left) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return vmstate.Errorf(vmstate.Host, "cannot end the processes %v", left).With("kill -9 them, then rm -r " + p.dir)
		}
		for _, pid := range left {
			p.killOne(pid)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// killOne kills a process of the run. The pidfd is taken before it is looked at once more, so that it is that process.
func (p *place) killOne(pid int) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return // gone
	}
	defer unix.Close(fd)
	if p.owns(pid) {
		_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0) // if it fails, it is gone, or is seen again
	}
}

// processes are those of the run; what has ended and was not waited for is none.
func (p *place) processes() ([]int, error) {
	pids, err := proc.PIDs()
	return slices.DeleteFunc(pids, func(pid int) bool { return pid == os.Getpid() || !p.owns(pid) }), err
}

func (p *place) owns(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	return err == nil && strings.Contains("\x00"+string(text), "\x00"+marker+"="+p.dir+"\x00")
}

// unmount takes away what is still mounted in the folder: the tree of a daemon that was killed.
func (p *place) unmount() error {
	const most = 10 // each on top of another
	for range most {
		mounts, err := proc.ReadMounts()
		if err != nil {
			return vmstate.Errorf(vmstate.Host, "cannot look for mounts: %w", err)
		}
		point := ""
		for _, m := range mounts {
			if strings.HasPrefix(m.Point, p.dir+"/") {
				point = m.Point
			}
		}
		if point == "" {
			return nil
		}
		if err := unix.Unmount(point, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			return vmstate.Errorf(vmstate.Host, "cannot unmount %s: %w", point, err).With("umount -l " + point)
		}
	}
	return vmstate.Errorf(vmstate.Host, "cannot unmount what is in %s: there is ever more", p.dir)
}

// logs are the last words of the daemon, where it warns, and of the QEMUs.
func (p *place) logs() []string {
	const most = 6 // lines of each
	var out []string
	add := func(path string, say func(string) string) {
		text, err := os.ReadFile(path)
		if err != nil {
			return
		}
		var lines []string
		for line := range strings.Lines(string(text)) {
			if line = say(strings.TrimSpace(line)); line != "" {
				lines = append(lines, line)
			}
		}
		for _, line := range lines[max(0, len(lines)-most):] {
			out = append(out, fold("  ", line, columns))
		}
	}
	add(p.log(), warning)
	paths, _ := filepath.Glob(p.file("run/vms/*/g*/qemu.log")) // the pattern is a good one
	for _, path := range paths {
		add(path, func(line string) string { return line })
	}
	return out
}

// warning is what a line of the daemon's log warns of; empty if it does not.
func warning(line string) string {
	var entry struct{ Level, Message, Error string }
	if json.Unmarshal([]byte(line), &entry) != nil {
		return line
	}
	switch {
	case entry.Level == "info" || entry.Level == "debug":
		return ""
	case entry.Error == "":
		return "daemon: " + entry.Message
	}
	return "daemon: " + entry.Message + ": " + entry.Error
}
