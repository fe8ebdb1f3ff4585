package restapi

import (
	"net"
	"os"

	"golang.org/x/sys/unix"

	"qlive/vmstate"
)

// Inherit listens on a unix socket that somebody else, a service manager, has made and listens on: its path, owner and mode are theirs, and
// so is its end: closing the listener leaves the socket's file. The file is closed in any case. A file that is no such
// socket is refused with kind Invalid.
func Inherit(file *os.File) (net.Listener, error) {
	defer file.Close()
	if !Listens(file) {
		return nil, vmstate.Errorf(vmstate.Invalid, "cannot listen on the descriptor %q that was passed on: it is no unix stream socket that listens", file.Name()).
			With("give the socket unit one ListenStream= with an absolute path")
	}
	l, err := net.FileListener(file)
	if err != nil {
		return nil, vmstate.Errorf(vmstate.Host, "cannot listen on the descriptor %q that was passed on: %w", file.Name(), err)
	}
	return l, nil
}

// Listens tells whether file is a unix stream socket that listens.
func Listens(file *os.File) bool {
	raw, err := file.SyscallConn()
	if err != nil {
		return false
	}
	yes := true
	err = raw.Control(func(fd uintptr) {
		for option, want := range map[int]int{unix.SO_DOMAIN: unix.AF_UNIX, unix.SO_TYPE: unix.SOCK_STREAM, unix.SO_ACCEPTCONN: 1} {
			got, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, option)
			yes = yes && err == nil && got == want
		}
	})
	return err == nil && yes
}
