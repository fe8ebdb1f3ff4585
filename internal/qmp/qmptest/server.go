package qmptest

import (
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"
)

// Listen serves a fresh socket until the test ends, and gives its path. Every connection runs the script in a goroutine
// of its own, and is closed when the script returns.
func Listen(tb testing.TB, script func(*Conn)) string {
	tb.Helper()
	path := Path(tb)
	ListenAt(tb, path, script)
	return path
}

// Path is the name for a socket that does not exist, in a folder that goes when the test ends. It is short enough for a
// socket, unlike those below tb.TempDir.
func Path(tb testing.TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp("", "qmp")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	return filepath.Join(dir, "qmp.sock")
}

// ListenAt is Listen at a path of the caller's.
func ListenAt(tb testing.TB, path string, script func(*Conn)) {
	tb.Helper()
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		tb.Fatal(err)
	}
	s := &server{tb: tb, script: script, conns: make(map[*Conn]bool)}
	s.running.Go(func() { s.accept(listener) })
	tb.Cleanup(func() {
		_ = listener.Close()
		s.closeAll()
		s.running.Wait()
	})
}

type server struct {
	tb      testing.TB
	script  func(*Conn)
	running sync.WaitGroup

	mu     sync.Mutex
	conns  map[*Conn]bool
	closed bool // the test is over
}

func (s *server) accept(listener *net.UnixListener) {
	for {
		socket, err := listener.AcceptUnix()
		if err != nil {
			return // the test is over
		}
		c := &Conn{server: s, socket: socket}
		c.json = json.NewDecoder((*reader)(c))
		if !s.add(c) {
			_ = socket.Close()
			return
		}
		s.running.Go(func() {
			defer s.remove(c)
			s.script(c)
		})
	}
}

func (s *server) add(c *Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.conns[c] = true
	}
	return !s.closed
}

func (s *server) remove(c *Conn) {
	_ = c.socket.Close()
	for _, f := range c.files {
		_ = f.Close()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
}

func (s *server) closeAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for c := range s.conns {
		_ = c.socket.Close()
	}
}

// failf fails the test, unless that is over, and ends the script.
func (s *server) failf(format string, args ...any) {
	s.mu.Lock()
	closed := s.closed
	s.mu.Unlock()
	if !closed {
		s.tb.Errorf("fake monitor: "+format, args...)
	}
	runtime.Goexit()
}

// reader takes bytes and descriptors off the socket.
type reader Conn

func (r *reader) Read(p []byte) (int, error) {
	oob := make([]byte, syscall.CmsgSpace(16*4))
	n, oobn, _, _, err := r.socket.ReadMsgUnix(p, oob)
	if err != nil {
		return max(n, 0), err
	}
	if n > 0 {
		r.reads++
	}
	messages, err := syscall.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return n, err
	}
	for i := range messages {
		fds, err := syscall.ParseUnixRights(&messages[i])
		if err != nil {
			return n, err
		}
		for _, fd := range fds {
			r.files = append(r.files, os.NewFile(uintptr(fd), "received"))
		}
	}
	if n == 0 {
		return 0, errHungUp
	}
	return n, nil
}

var errHungUp = errors.New("the client hung up")
