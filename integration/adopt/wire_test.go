package adopt_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"qlive/integration/guest"
	"qlive/integration/lab"
)

// withNetwork are the arguments of a Linux guest that has a driver for its network card.
func withNetwork(t *testing.T, l *lab.Lab, more ...string) []string {
	t.Helper()
	modules, err := guest.Modules(filepath.Join(l.Env.Cache, "kernel", "modules"), guest.VirtioModules()...)
	if err != nil {
		t.Fatal(err)
	}
	initrd, err := guest.Build(t.Context(), l.Env.Cache, modules...)
	if err != nil {
		t.Fatal(err)
	}
	return append([]string{"-qmp", "unix:qmp,server=on,wait=off", "-kernel", l.Env.Kernel, "-initrd", initrd, "-append", guest.Append(small())}, more...)
}

// wire is the host's end of a guest's tap; the guest's kernel at the other end answers pings to the address that it has given itself.
type wire struct {
	t    *testing.T
	fd   int
	to   unix.SockaddrInet6
	sent uint16
	from uint16 // the first that counts
	got  atomic.Int64
}

// tapUp takes an interface up and makes ready to ping the guest whose card there has this MAC address (RFC 4291, appendix A).
func tapUp(t *testing.T, l *lab.Lab, name string, mac net.HardwareAddr) *wire {
	t.Helper()
	l.Eventually("the interface is up", func() error {
		out, err := exec.Command("ip", "link", "set", name, "up").CombinedOutput()
		if err != nil {
			err = fmt.Errorf("%w: %s", err, out)
		}
		return err
	})
	link, err := net.InterfaceByName(name)
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_ICMPV6)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	address := netip.AddrFrom16([16]byte{0xfe, 0x80, 8: mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]})
	return &wire{t: t, fd: fd, to: unix.SockaddrInet6{Addr: address.As16(), ZoneId: uint32(link.Index)}}
}

const echoRequest, echoReply = 128, 129

// ping sends one, and takes the answers that have come so far.
func (w *wire) ping() error {
	w.sent++
	err := unix.Sendto(w.fd, binary.BigEndian.AppendUint16([]byte{echoRequest, 0, 0, 0, 0x71, 0x6c}, w.sent), 0, &w.to)
	if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) && !errors.Is(err, unix.ENETUNREACH) && !errors.Is(err, unix.EHOSTUNREACH) { // the host has no address there yet
		return err
	}
	for buf := make([]byte, 128); ; {
		n, from, err := unix.Recvfrom(w.fd, buf, 0)
		if errors.Is(err, unix.EAGAIN) {
			return nil
		}
		if err != nil && !errors.Is(err, unix.EHOSTUNREACH) {
			return err
		}
		if a, ok := from.(*unix.SockaddrInet6); ok && n == 8 && buf[0] == echoReply && buf[4] == 0x71 && buf[5] == 0x6c && a.Addr == w.to.Addr && a.ZoneId == w.to.ZoneId && binary.BigEndian.Uint16(buf[6:]) >= w.from {
			w.got.Add(1)
		}
	}
}

// answers waits until the guest has answered three pings.
func (w *wire) answers(l *lab.Lab) {
	w.t.Helper()
	before := w.got.Load()
	l.Eventually("the guest answers pings", func() error {
		if err := w.ping(); err != nil {
			w.t.Fatal(err)
		}
		if n := w.got.Load() - before; n < 3 {
			return fmt.Errorf("%d of 3 have been answered", n)
		}
		return nil
	})
}

// during pings every 10 ms while something is done, and tells how many were not answered.
func (w *wire) during(do func()) (sent, lost int64) {
	w.t.Helper()
	before, first := w.got.Load(), w.sent
	w.from = first + 1
	done, ended := make(chan struct{}), make(chan error)
	go func() { // waited for below
		for {
			err := w.ping()
			select {
			case <-done:
				ended <- err
				return
			case <-time.After(10 * time.Millisecond):
			}
		}
	}()
	do()
	close(done)
	if err := <-ended; err != nil {
		w.t.Error(err)
	}
	sent = int64(w.sent - first)
	return sent, sent - (w.got.Load() - before)
}
