package daemon

import (
	"net"
	"time"

	"golang.org/x/sys/unix"

	"qlive/vmstate"
)

const (
	consoleReach = 2 * time.Second        // to connect and to hand the bytes to the kernel
	consoleTaken = 30 * time.Second       // for the guest to read them
	consoleQuiet = 200 * time.Millisecond // between two looks
)

// Console types input on the guest's console. It returns once QEMU has taken all of it: a guest's serial port reads slowly, and bytes
// that wait in the socket are lost when it is closed.
func (d *Daemon) Console(vm string, input []byte) error {
	m, err := d.machine(vm)
	if err != nil {
		return err
	}
	m.mu.Lock()
	g := m.current
	m.mu.Unlock()
	if g == nil {
		return m.notThere("type on the console of")
	}
	if len(g.line.Consoles) == 0 {
		return vmstate.Errorf(vmstate.Unsupported, "cannot type on the console of %s: it has no serial port", vm).
			With("start it with -serial stdio, or without -nodefaults")
	}
	m.typing.Lock() // QEMU serves one client at a time
	defer m.typing.Unlock()
	conn, err := net.DialTimeout("unix", g.line.Consoles[0].Socket, consoleReach)
	if err != nil {
		return vmstate.Errorf(vmstate.QEMU, "cannot reach the console of %s: %w", vm, err)
	}
	defer conn.Close()
	return typeOn(conn.(*net.UnixConn), input)
}

func typeOn(conn *net.UnixConn, input []byte) error {
	read := make(chan struct{})
	go func() { // what the guest writes is in QEMU's own log; here it is only taken off the socket, so that nothing waits for us
		defer close(read)
		buf := make([]byte, 4096)
		for {
			if _, err := conn.Read(buf); err != nil {
				return
			}
		}
	}()
	defer func() { conn.Close(); <-read }()
	if err := conn.SetWriteDeadline(time.Now().Add(consoleReach)); err != nil {
		return err
	}
	if _, err := conn.Write(input); err != nil {
		return vmstate.Errorf(vmstate.QEMU, "cannot type on the console: %w", err)
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	for deadline := time.Now().Add(consoleTaken); ; time.Sleep(consoleQuiet) {
		var left int
		var ioctl error
		if err := raw.Control(func(fd uintptr) { left, ioctl = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) }); err != nil {
			return err
		}
		if ioctl != nil || left == 0 {
			return ioctl
		}
		if time.Now().After(deadline) {
			return vmstate.Errorf(vmstate.Timeout, "cannot type on the console: the guest has not read %d bytes within %s", left, consoleTaken)
		}
	}
}
