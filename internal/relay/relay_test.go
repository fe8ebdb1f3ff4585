package relay

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"qlive/vmstate/stream"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const limit = 60 * time.Second

// scene is a relay between two QEMUs that the test plays.
type scene struct {
	t              *testing.T
	source, target *net.UnixConn
	ended          chan Result
}

func newScene(t *testing.T) *scene {
	t.Helper()
	begin := make(chan struct{})
	close(begin)
	return newSceneUntil(t, begin)
}

// newSceneUntil is a scene in which pages of zeroes pass until begin is closed.
func newSceneUntil(t *testing.T, begin <-chan struct{}) *scene {
	t.Helper()
	source, a := pair(t)
	b, target := pair(t)
	s := &scene{t, source, target, make(chan Result, 1)}
	go func() {
		r := Run(a, b, begin)
		a.Close()
		b.Close()
		s.ended <- r
	}()
	for _, c := range []*net.UnixConn{source, target} {
		if err := c.SetDeadline(time.Now().Add(limit)); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func pair(t *testing.T) (a, b *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	conns := make([]*net.UnixConn, 2)
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "end")
		c, err := net.FileConn(f)
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
		conns[i] = c.(*net.UnixConn)
	}
	return conns[0], conns[1]
}

func (s *scene) send(to *net.UnixConn, b []byte) {
	s.t.Helper()
	if _, err := to.Write(b); err != nil {
		s.t.Fatal(err)
	}
}

// expect reads exactly what is wanted.
func (s *scene) expect(from *net.UnixConn, want []byte) {
	s.t.Helper()
	got := make([]byte, len(want))
	if n, err := io.ReadFull(from, got); err != nil || !bytes.Equal(got, want) {
		s.t.Fatalf("got %d bytes, %v:\n% x\nwant\n% x", n, err, got[:n], want)
	}
}

// hungUp makes sure that the relay has hung up on somebody, in both directions.
func (s *scene) hungUp(on *net.UnixConn) {
	s.t.Helper()
	if n, err := on.Read(make([]byte, 1)); n > 0 || err != io.EOF && !errors.Is(err, unix.ECONNRESET) { // as at the death of one who has not read all
		s.t.Errorf("read %d bytes, %v", n, err)
	}
	if _, err := on.Write([]byte{0}); err == nil {
		s.t.Error("it still takes what is written")
	}
}

func (s *scene) result() Result {
	s.t.Helper()
	select {
	case r := <-s.ended:
		return r
	case <-time.After(limit):
		s.t.Fatal("the relay does not end")
		return Result{}
	}
}

// words is what a QEMU writes, piece by piece: numbers by their size, strings with their length before them.
func words(parts ...any) (b []byte) {
	for _, p := range parts {
		switch v := p.(type) {
		case string:
			b = append(append(b, byte(len(v))), v...)
		case []byte:
			b = append(b, v...)
		case int: // a byte
			b = append(b, byte(v))
		default:
			b, _ = binary.Append(b, binary.BigEndian, v) // of a fixed size
		}
	}
	return b
}

// head is a stream up to the devices, for 4 pages of RAM; the guest is loaded with its last byte.
func head() []byte {
	return words(uint32(stream.Magic), uint32(stream.Version), 7, uint32(2), []byte("pc"), 8, uint16(stream.CommandOpenReturnPath), uint16(0),
		1, uint32(2), "ram", uint32(0), uint32(4), uint64(4*stream.PageBytes|0x04), "pc.ram", uint64(4*stream.PageBytes), uint64(0x10), 0x7e, uint32(2),
		8, uint16(stream.CommandPackaged), uint16(4), uint32(3), []byte("dev"))
}

func zero(page uint64) []byte     { return words(page*stream.PageBytes|0x02, "pc.ram", 0) }
func zeroNext(page uint64) []byte { return words(page*stream.PageBytes|0x22, 0) }
func part() []byte                { return words(2, uint32(2)) }
func end() []byte                 { return words(uint64(0x10), 0x7e, uint32(2)) }

func request(page uint64) []byte {
	return words(uint16(stream.MessageReqPagesID), uint16(19), page*stream.PageBytes, uint32(stream.PageBytes), "pc.ram")
}

func pong(n uint32) []byte { return words(uint16(stream.MessagePong), uint16(4), n) }
func shut() []byte         { return words(uint16(stream.MessageShut), uint16(4), uint32(0)) }

func TestRelay(t *testing.T) {
	s := newScene(t)
	s.send(s.source, head())
	s.expect(s.target, head())
	s.send(s.target, pong(3))
	s.expect(s.source, pong(3))
	page := words(uint64(stream.PageBytes|0x28), bytes.Repeat([]byte{7}, stream.PageBytes))
	s.send(s.source, bytes.Join([][]byte{part(), zero(0), page, zeroNext(2), end()}, nil))
	named := words(uint64(stream.PageBytes|0x08), "pc.ram", page[8:])
	s.expect(s.target, bytes.Join([][]byte{part(), named, end()}, nil))

	// What is asked for between two sections comes in one of its own.
	s.send(s.target, request(2))
	s.expect(s.source, request(2))
	s.expect(s.target, bytes.Join([][]byte{part(), zeroNext(2), end()}, nil))

	// Inside a section it comes between two pages.
	s.send(s.source, part())
	s.expect(s.target, part())
	s.send(s.target, request(0))
	s.expect(s.source, request(0))
	s.expect(s.target, zeroNext(0))
	s.send(s.source, append(zeroNext(3), end()...))
	s.send(s.source, []byte{0})
	s.expect(s.target, append(end(), 0))

	s.send(s.target, shut())
	s.target.Close()
	s.expect(s.source, shut())
	s.hungUp(s.source)
	s.source.Close()
	if r := s.result(); r != (Result{SieveStats: stream.SieveStats{Zeroes: 3, Kept: 3, Given: 2}}) {
		t.Error(r)
	}
}

// Until the guest runs in the target pages of zeroes pass: all that the source has sent may be wanted back.
func TestAllPassesBeforeTheBeginning(t *testing.T) {
	begin := make(chan struct{})
	s := newSceneUntil(t, begin)
	s.send(s.source, head())
	s.expect(s.target, head())
	first := bytes.Join([][]byte{part(), zero(0), zeroNext(1), end()}, nil)
	s.send(s.source, first)
	s.expect(s.target, first)
	close(begin)
	s.send(s.source, bytes.Join([][]byte{part(), zeroNext(2), end()}, nil))
	s.expect(s.target, append(part(), end()...))
	s.send(s.target, request(2))
	s.expect(s.target, bytes.Join([][]byte{part(), zeroNext(2), end()}, nil))
	s.target.Close()
	s.source.Close()
	if r := s.result(); r != (Result{SieveStats: stream.SieveStats{Zeroes: 3, Kept: 1, Given: 1}}) {
		t.Error(r)
	}
}

// A target that loads its devices may wait for a page, and nothing takes it out of its wait once it has the end: the end comes after what it asked for.
func TestEndWaitsForTheDevices(t *testing.T) {
	s := newScene(t)
	s.send(s.source, head())
	s.send(s.source, bytes.Join([][]byte{part(), zero(1), end(), {0}}, nil))
	s.expect(s.target, head())
	s.expect(s.target, append(part(), end()...))
	s.send(s.target, request(1))
	s.expect(s.target, bytes.Join([][]byte{part(), zero(1), end()}, nil))
	s.expect(s.target, []byte{0})
	s.target.Close()
	s.source.Close()
	s.result()
}

// Whoever hangs up or dies is seen by the other at once, at any point of the stream.
func TestOneHangsUp(t *testing.T) {
	for name, sent := range map[string][]byte{
		"before anything":    nil,
		"inside a header":    head()[:10],
		"inside the devices": head()[:len(head())-1],
		"inside a page":      append(head(), words(2, uint32(2), uint64(0x08), "pc.ram", 1, 2, 3)...),
	} {
		t.Run("the source "+name, func(t *testing.T) {
			s := newScene(t)
			s.send(s.source, sent)
			s.source.Close()
			s.expect(s.target, sent) // what it has sent is not lost
			s.hungUp(s.target)
			s.target.Close()
			s.result()
		})
		t.Run("the target "+name, func(t *testing.T) {
			s := newScene(t)
			s.send(s.source, sent)
			s.target.Close()
			s.hungUp(s.source)
			s.source.Close()
			s.result()
		})
	}
}

// A target that says what nobody knows gets all pages, and the source hears all that it says.
func TestTargetNotUnderstood(t *testing.T) {
	s := newScene(t)
	s.send(s.source, head())
	s.expect(s.target, head())
	s.send(s.target, pong(3))
	s.expect(s.source, pong(3))
	s.send(s.source, bytes.Join([][]byte{part(), zero(1), end()}, nil))
	s.expect(s.target, append(part(), end()...))
	odd := words(uint16(stream.MessagePong), uint16(5), 1, 2, 3, 4, 5, "and more")
	s.send(s.target, odd)
	s.expect(s.source, odd)
	s.expect(s.target, bytes.Join([][]byte{part(), zero(1), end()}, nil))
	s.target.Close()
	s.hungUp(s.source)
	s.source.Close()
	if r := s.result(); r.Aside == "" || r.Given != 1 {
		t.Error(r)
	}
}
