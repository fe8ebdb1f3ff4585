package carry

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"qlive/vmstate"
)

// Shut keeps everybody from connecting to a socket that listens on a TCP port: the kernel drops what asks for it, and the client's asks again, a
// second later and then ever more seldom. Whoever waits to be accepted is hung up on; connections are left alone. It holds for whoever has the
// socket, until [Open], and can be called again. Errors are of Kind Unsupported for any other socket, and Host.
func Shut(f *os.File) error {
	err := control(f, func(fd int) error {
		if !isTCP(fd) {
			return vmstate.Errorf(vmstate.Unsupported, "cannot hand %s on: nobody could be kept from connecting to it meanwhile", f.Name()).
				With("let QEMU listen at a path, path=PATH,server=on,wait=off")
		}
		drop := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K}
		if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &drop}); err != nil {
			return err
		}
		return hangUp(fd)
	})
	return explain("cannot close", f, err)
}

// Open lets others connect again to a socket that was shut.
func Open(f *os.File) error {
	err := control(f, func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0) })
	if errors.Is(err, unix.ENOENT) { // it was not
		return nil
	}
	return explain("cannot open", f, err)
}

func explain(what string, f *os.File, err error) error {
	if _, ok := errors.AsType[*vmstate.Error](err); err == nil || ok {
		return err
	}
	return vmstate.Errorf(vmstate.Host, "%s %s for others: %w", what, f.Name(), err)
}

func isTCP(fd int) bool {
	at, err := unix.Getsockname(fd)
	if err != nil {
		return false
	}
	switch at.(type) {
	case *unix.SockaddrInet4, *unix.SockaddrInet6:
		return true
	}
	return false
}

// hangUp accepts and closes whatever waits.
func hangUp(fd int) error {
	for {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(poll, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n == 0 {
			return err
		}
		c, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC)
		if errors.Is(err, unix.EAGAIN) { // the QEMU has been faster
			return nil
		}
		if err == nil {
			err = unix.Close(c)
		}
		if err != nil && !errors.Is(err, unix.ECONNABORTED) && !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
