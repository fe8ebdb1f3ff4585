package carry

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"qlive/vmstate"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func listen(t *testing.T, network, at string) (net.Listener, *os.File) {
	t.Helper()
	var plain net.ListenConfig
	plain.SetMultipathTCP(false) // which Go takes by itself, and QEMU does not
	l, err := plain.Listen(t.Context(), network, at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	f, err := l.(interface{ File() (*os.File, error) }).File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return l, f
}

// Nobody connects to a port that is shut, and whoever waited there is hung up on; a connection that is there stays; it opens again.
func TestPort(t *testing.T) {
	l, f := listen(t, "tcp", "127.0.0.1:0")
	connect := func(limit time.Duration) net.Conn {
		t.Helper()
		c, err := net.DialTimeout("tcp", l.Addr().String(), limit)
		if err != nil {
			return nil
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	there := connect(time.Minute)
	served, err := l.Accept()
	if err != nil || there == nil {
		t.Fatal(err)
	}
	defer served.Close()
	waits := connect(time.Minute)
	for range 2 {
		if err := Shut(f); err != nil {
			t.Fatal(err)
		}
	}
	if waits == nil {
		t.Fatal("nobody could connect")
	}
	if err := waits.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if _, err := waits.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("whoever waited is not hung up on: %v", err)
	}
	if c := connect(100 * time.Millisecond); c != nil {
		t.Error("somebody could connect to a port that is shut")
	}
	if _, err := served.Write([]byte("x")); err != nil {
		t.Errorf("a connection is gone: %v", err)
	}
	if _, err := there.Read(make([]byte, 1)); err != nil {
		t.Errorf("a connection is gone: %v", err)
	}
	for range 2 {
		if err := Open(f); err != nil {
			t.Fatal(err)
		}
	}
	if connect(time.Minute) == nil {
		t.Error("nobody can connect to a port that was opened again")
	}
}

func TestPathIsRefused(t *testing.T) {
	_, f := listen(t, "unix", filepath.Join(t.TempDir(), "s"))
	if err := Shut(f); vmstate.KindOf(err) != vmstate.Unsupported {
		t.Errorf("got %v", err)
	}
}

// Whoever else changes the header's length of a tap, it is what it was; afterwards it is his.
func TestTap(t *testing.T) {
	tun, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer tun.Close()
	req, err := unix.NewIfreq("qlivetest1")
	if err != nil {
		t.Fatal(err)
	}
	req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := control(tun, func(fd int) error { return unix.IoctlIfreq(fd, unix.TUNSETIFF, req) }); err != nil {
		t.Fatal(err)
	}
	if err := setHeaderLength(tun, 12); err != nil {
		t.Fatal(err)
	}
	stop := KeepTaps([]*os.File{tun})
	for range 3 {
		if err := setHeaderLength(tun, 10); err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
			n, err := headerLength(tun)
			if err != nil || time.Now().After(deadline) {
				t.Fatalf("the header has %d bytes, %v", n, err)
			}
			if n == 12 {
				break
			}
		}
	}
	stop()
	if err := setHeaderLength(tun, 10); err != nil {
		t.Fatal(err)
	}
	time.Sleep(3 * watchTick)
	if n, err := headerLength(tun); n != 10 || err != nil {
		t.Errorf("the header has %d bytes, %v", n, err)
	}
	taps := []*os.File{tun}
	if err := SetHeaderLengths(taps, []int{12}); err != nil {
		t.Fatal(err)
	}
	if err := SetHeaderLengths(taps, []int{0}); err != nil || !slices.Equal(HeaderLengths(taps), []int{12}) {
		t.Errorf("the headers have %v bytes, %v", HeaderLengths(taps), err)
	}
}
