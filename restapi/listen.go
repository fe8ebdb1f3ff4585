package restapi

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"os/user"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"qlive/vmstate"
)

// Listen listens on a unix socket at path, which those can connect to who have a role: mode 0660 with the trusted group, 0600
// without one, 0666 where others may read. A socket that nobody answers on is replaced; one that somebody answers on is refused with a Conflict. The socket's
// file goes when the listener is closed.
//
// Preconditions: the caller holds the lock of its run directory, so that no two do this at once.
func Listen(path string, trust vmstate.Trust) (net.Listener, error) {
	if err := clear(path); err != nil {
		return nil, err
	}
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var set error
		// Before bind: the file never stands there for everyone, whatever the umask.
		err := raw.Control(func(fd uintptr) { set = unix.Fchmod(int(fd), 0o600) })
		return errors.Join(err, set)
	}}
	l, err := config.Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, vmstate.Errorf(vmstate.Host, "cannot listen on %s: %w", path, err).With("choose another place with --socket; a path may have 107 bytes")
	}
	mode := fs.FileMode(0o600)
	if trust.Group > 0 {
		mode = 0o660
		err = os.Chown(path, -1, trust.Group)
	}
	if trust.Others >= vmstate.RoleRead {
		mode = 0o666
	}
	if err == nil {
		err = os.Chmod(path, mode)
	}
	if err != nil {
		return nil, errors.Join(vmstate.Errorf(vmstate.Host, "cannot set the rights of %s: %w", path, err), l.Close())
	}
	return l, nil
}

// GroupID is the number of a group given by name or number; -1 for the empty name.
func GroupID(group string) (int, error) {
	if group == "" {
		return -1, nil
	}
	if gid, err := strconv.ParseUint(group, 10, 31); err == nil {
		return int(gid), nil
	}
	g, err := user.LookupGroup(group)
	if err != nil {
		return -1, vmstate.Errorf(vmstate.Invalid, "cannot give the socket to group %q: %w", group, err).With("create it: addgroup --system " + group)
	}
	return strconv.Atoi(g.Gid)
}

// clear makes room for a socket at path.
func clear(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return vmstate.Errorf(vmstate.Host, "cannot look at %s: %w", path, err)
	}
	if info.Mode().Type() != fs.ModeSocket {
		return vmstate.Errorf(vmstate.Conflict, "cannot listen on %s: it is no socket", path).With("move it away, or choose another place with --socket")
	}
	conn, err := net.DialTimeout("unix", path, 2*time.Second)
	if err == nil {
		conn.Close()
		return vmstate.Errorf(vmstate.Conflict, "cannot listen on %s: somebody answers there", path).With("another qlive daemon runs; stop it, or choose another place with --socket")
	}
	if !errors.Is(err, unix.ECONNREFUSED) {
		return vmstate.Errorf(vmstate.Host, "cannot tell whether somebody listens on %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return vmstate.Errorf(vmstate.Host, "cannot remove the dead socket %s: %w", path, err)
	}
	return nil
}
