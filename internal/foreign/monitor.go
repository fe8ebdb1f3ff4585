package foreign

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"qlive/internal/proc"
	"qlive/internal/qemu/cmdline"
	"qlive/internal/qmp"
	"qlive/vmstate"
)

// greetLimit is how long a monitor may take to greet. A QEMU that runs does so within a millisecond; one whose monitor somebody else has
// never does.
const greetLimit = 3 * time.Second

// Find finds the QEMU that is meant by a process number, a monitor's socket, or both, and connects to its monitor. Errors are of kind
// Invalid, NotFound, Denied, Conflict (the monitor is taken, or is another process') and Unsupported (there is none), each with the way out.
func Find(ctx context.Context, pid int, socket string) (*Process, *qmp.Client, string, error) {
	if pid == 0 && socket == "" {
		return nil, nil, "", vmstate.Errorf(vmstate.Invalid, "cannot adopt a QEMU: neither its process nor its monitor is named").
			With("name one or both of pid and qmp")
	}
	if socket != "" && !filepath.IsAbs(socket) {
		return nil, nil, "", vmstate.Errorf(vmstate.Invalid, "cannot reach the monitor at %q: it is not an absolute path", socket).With("write the path from /")
	}
	if pid == 0 {
		return findBySocket(ctx, socket)
	}
	p, err := Inspect(pid)
	if err != nil {
		return nil, nil, "", err
	}
	sockets := []string{socket}
	if socket != "" { // Dial waits for a socket that is not there yet
		if _, err := os.Lstat(socket); err != nil {
			return nil, nil, "", unreachable(socket, err)
		}
	} else {
		if sockets, err = p.monitors(); err != nil {
			return nil, nil, "", err
		}
	}
	var first error
	for _, path := range sockets {
		client, err := p.connect(ctx, path)
		if err == nil {
			return p, client, path, nil
		}
		if first == nil {
			first = err
		}
	}
	return nil, nil, "", first
}

// findBySocket takes for the process whoever listens on the socket.
func findBySocket(ctx context.Context, socket string) (*Process, *qmp.Client, string, error) {
	if _, err := os.Lstat(socket); err != nil { // Dial waits for a socket that is not there yet
		return nil, nil, "", unreachable(socket, err)
	}
	client, err := dial(ctx, socket)
	if err != nil {
		return nil, nil, "", silent(socket, err)
	}
	pid, err := client.PeerPID()
	var p *Process
	if err == nil {
		p, err = Inspect(pid)
	}
	if err != nil {
		return nil, nil, "", errors.Join(err, client.Close())
	}
	return p, client, socket, nil
}

// dial waits no longer for a greeting than it may take.
func dial(ctx context.Context, path string) (*qmp.Client, error) {
	ctx, cancel := context.WithTimeout(ctx, greetLimit)
	defer cancel()
	return qmp.Dial(ctx, path, qmp.Options{})
}

// silent says why the monitor at path cannot be used.
func silent(path string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ECONNREFUSED), errors.Is(err, fs.ErrPermission):
		return unreachable(path, err)
	case !errors.Is(err, context.DeadlineExceeded):
		return vmstate.Errorf(vmstate.QEMU, "cannot use the monitor at %s: %w", path, err).With("is it a QMP monitor of a QEMU? -qmp makes one")
	}
	if pid, err := listener(path); err == nil {
		if p, err := Inspect(pid); err == nil && p.taken(path) {
			return vmstate.Errorf(vmstate.Conflict, "cannot adopt process %d: another client has its monitor at %s, and a monitor serves one at a time", pid, path).
				With("end that client (ss -xp shows it), or name another monitor with --qmp: give each QEMU one for qlive, -qmp unix:PATH,server=on,wait=off. " +
					"A libvirt guest's belongs to libvirt")
		}
	}
	return vmstate.Errorf(vmstate.Timeout, "cannot use the monitor at %s: it has not answered within %s", path, greetLimit).
		With("see whether the QEMU hangs or is stopped (kill -CONT lets it go on)")
}

// listener is the process that has begun to listen on a socket.
func listener(socket string) (int, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return 0, vmstate.Errorf(vmstate.Host, "cannot reach the monitor at %s: %w", socket, err)
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: socket}); err != nil {
		return 0, unreachable(socket, err)
	}
	peer, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return 0, vmstate.Errorf(vmstate.Host, "cannot tell who serves the monitor at %s: %w", socket, err)
	}
	return int(peer.Pid), nil
}

// unreachable is the refusal of a socket that nobody serves.
func unreachable(socket string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return vmstate.Errorf(vmstate.NotFound, "cannot reach the monitor at %s: there is no such socket", socket).
			With("the QEMU's -qmp or -mon option names it; its working folder counts where the path is relative")
	case errors.Is(err, unix.ECONNREFUSED):
		return vmstate.Errorf(vmstate.NotFound, "cannot reach the monitor at %s: nobody listens there", socket).
			With("the QEMU that did has ended, or another one has taken the path since")
	case errors.Is(err, fs.ErrPermission):
		return vmstate.Errorf(vmstate.Denied, "cannot reach the monitor at %s: %w", socket, err).With("run the daemon as root")
	}
	return vmstate.Errorf(vmstate.Host, "cannot reach the monitor at %s: %w", socket, err)
}

// monitors are the sockets that the process' command line makes for QMP.
func (p *Process) monitors() ([]string, error) {
	args, err := p.whole()
	if err != nil {
		return nil, err
	}
	paths, others := cmdline.Monitors(args)
	for i, path := range paths {
		if !filepath.IsAbs(path) {
			paths[i] = filepath.Join(p.Dir, path)
		}
	}
	if len(paths) > 0 {
		return paths, nil
	}
	why := "it has no monitor"
	if others > 0 {
		why = "none of its monitors is a unix socket of its own that speaks QMP"
	}
	return nil, vmstate.Errorf(vmstate.Unsupported, "cannot adopt process %d: %s", p.ID.PID, why).
		With("a QEMU of 11.1 or later can be given one by a monitor that it has (chardev-add a socket, then object-add monitor-qmp); " +
			"any other must be started anew with -qmp unix:PATH,server=on,wait=off. If it has one that its command line does not show, name it with --qmp")
}

// connect takes the monitor at path, which must be this process'.
func (p *Process) connect(ctx context.Context, path string) (*qmp.Client, error) {
	client, err := dial(ctx, path)
	if err != nil {
		return nil, silent(path, err)
	}
	return p.own(client, path)
}

// own makes sure that the monitor is that of the process.
func (p *Process) own(client *qmp.Client, path string) (*qmp.Client, error) {
	pid, err := client.PeerPID()
	if err == nil && pid != p.ID.PID {
		err = vmstate.Errorf(vmstate.Conflict, "cannot adopt process %d by the monitor at %s: process %d listens there", p.ID.PID, path, pid).
			With("name the process and the monitor of one and the same QEMU; a socket that another program has passed to its QEMU cannot be used")
	}
	if err != nil {
		return nil, errors.Join(err, client.Close())
	}
	return client, nil
}

// taken tells whether the process has accepted a connection on the socket at path.
func (p *Process) taken(path string) bool {
	list, err := proc.ReadUnixSockets(p.ID.PID)
	if err != nil {
		return false
	}
	own := p.sockets()
	return slices.ContainsFunc(list, func(s proc.UnixSocket) bool {
		return s.Connected && own[s.Inode] && p.resolve(s.Path) == path
	})
}

func (p *Process) resolve(path string) string {
	if filepath.IsAbs(path) || path == "" {
		return path
	}
	return filepath.Join(p.Dir, path)
}

// sockets are the inodes of those that the process has open.
func (p *Process) sockets() map[uint64]bool {
	own := map[uint64]bool{}
	entries, _ := os.ReadDir(p.path("fd")) // none, if it has ended
	for _, e := range entries {
		link, err := os.Readlink(p.path("fd/" + e.Name()))
		if err != nil {
			continue
		}
		if n, ok := strings.CutPrefix(link, "socket:["); ok {
			if inode, err := strconv.ParseUint(strings.TrimSuffix(n, "]"), 10, 64); err == nil {
				own[inode] = true
			}
		}
	}
	return own
}
