package systemdtest

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"qlive/internal/systemd"
)

// limit bounds every wait.
const limit = 60 * time.Second

// Message is what the manager was told in one datagram.
type Message struct {
	PID   int      // of the sender, as the kernel says
	Lines []string // NAME=VALUE
	Files int      // descriptors that came with it
}

// Has tells whether the message has a line.
func (m Message) Has(line string) bool { return slices.Contains(m.Lines, line) }

// Value is what follows NAME= in the message; empty without it.
func (m Message) Value(name string) string {
	for _, line := range m.Lines {
		if value, ok := strings.CutPrefix(line, name+"="); ok {
			return value
		}
	}
	return ""
}

// Manager listens for messages. Its methods may be called from any goroutine.
type Manager struct {
	Address string // for NOTIFY_SOCKET
	conn    *net.UnixConn
	done    chan struct{}

	mu       sync.Mutex
	messages []Message
	read     int // of the messages, by Await
	changed  chan struct{}
	store    []systemd.File // the newest first, as systemd passes them on
	dropped  []systemd.File // closed at the end, lest a test that has them from Stored finds other files under their numbers
	failed   error
}

// New listens until the test is over: on address, or on a path of its own if that is empty.
func New(t testing.TB, address string) *Manager {
	t.Helper()
	if address == "" {
		dir, err := os.MkdirTemp("", "qlive-notify-") // short: t.TempDir may be too long for a socket
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
		address = filepath.Join(dir, "notify")
	}
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: address, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	if err := passCredentials(conn); err != nil {
		t.Fatal(err)
	}
	m := &Manager{Address: address, conn: conn, done: make(chan struct{}), changed: make(chan struct{})}
	go m.listen()
	t.Cleanup(func() {
		conn.Close()
		<-m.done
		for _, f := range append(m.store, m.dropped...) {
			f.Close()
		}
		if m.failed != nil {
			t.Errorf("reading messages to the service manager: %v", m.failed)
		}
	})
	return m
}

func passCredentials(conn *net.UnixConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PASSCRED, 1) })
	return errors.Join(err, failed)
}

func (m *Manager) listen() {
	defer close(m.done)
	text, oob := make([]byte, 64<<10), make([]byte, 4<<10)
	for {
		n, oobn, _, _, err := m.conn.ReadMsgUnix(text, oob)
		if err == nil {
			err = m.take(string(text[:n]), oob[:oobn])
		}
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			m.mu.Lock()
			m.failed = err
			m.mu.Unlock()
			return
		}
	}
}

// take takes note of a message, and does with its descriptors what systemd does: a second descriptor of one opened file is dropped.
func (m *Manager) take(text string, oob []byte) error {
	msg := Message{Lines: strings.Split(text, "\n")}
	controls, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return err
	}
	var files []*os.File
	for _, c := range controls {
		switch c.Header.Type {
		case unix.SCM_CREDENTIALS:
			cred, err := unix.ParseUnixCredentials(&c)
			if err != nil {
				return err
			}
			msg.PID = int(cred.Pid)
		case unix.SCM_RIGHTS:
			fds, err := unix.ParseUnixRights(&c)
			if err != nil {
				return err
			}
			for _, fd := range fds {
				files = append(files, os.NewFile(uintptr(fd), msg.Value("FDNAME")))
			}
		}
	}
	msg.Files = len(files)
	m.mu.Lock()
	defer m.mu.Unlock()
	switch name := msg.Value("FDNAME"); {
	case msg.Has("FDSTOREREMOVE=1"):
		m.dropLocked(name)
	case msg.Has("FDSTORE=1"):
		for _, f := range files {
			m.storeLocked(name, f)
		}
		files = nil
	}
	for _, f := range files {
		f.Close()
	}
	m.messages = append(m.messages, msg)
	close(m.changed)
	m.changed = make(chan struct{})
	return nil
}

func (m *Manager) storeLocked(name string, file *os.File) {
	for _, other := range m.store {
		if sameOpening(other.File, file) {
			file.Close()
			return
		}
	}
	m.store = slices.Insert(m.store, 0, systemd.File{Name: name, File: file})
}

func (m *Manager) dropLocked(name string) {
	m.store = slices.DeleteFunc(m.store, func(f systemd.File) bool {
		if f.Name == name {
			m.dropped = append(m.dropped, f)
		}
		return f.Name == name
	})
}

// sameOpening tells whether two descriptors are of the same opened file, as same_fd of systemd does, by kcmp(2).
func sameOpening(a, b *os.File) bool {
	const file = 0 // KCMP_FILE
	pid := uintptr(os.Getpid())
	order, _, errno := unix.Syscall6(unix.SYS_KCMP, pid, pid, file, a.Fd(), b.Fd(), 0)
	return errno == 0 && order == 0
}

// Await waits for a message with a line, among those that no earlier Await has gone past, and returns it.
func (m *Manager) Await(t testing.TB, line string) Message {
	t.Helper()
	deadline := time.After(limit)
	for {
		m.mu.Lock()
		for m.read < len(m.messages) {
			msg := m.messages[m.read]
			m.read++
			if msg.Has(line) {
				m.mu.Unlock()
				return msg
			}
		}
		changed := m.changed
		m.mu.Unlock()
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("waited %s for the message %q; there were %+v", limit, line, m.Messages())
		}
	}
}

// Messages are all messages so far.
func (m *Manager) Messages() []Message {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.messages)
}

// Stored is what the store holds, the newest first. The files stay the manager's.
func (m *Manager) Stored() []systemd.File {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.store)
}

// AwaitSilence waits until no message with a line has come for as long as d: what makes a manager's watchdog bark.
func (m *Manager) AwaitSilence(t testing.TB, line string, d time.Duration) {
	t.Helper()
	deadline := time.After(limit)
	count := func() (n int) {
		for _, msg := range m.Messages() {
			if msg.Has(line) {
				n++
			}
		}
		return n
	}
	for seen := -1; count() != seen; {
		seen = count()
		select {
		case <-time.After(d):
		case <-deadline:
			t.Fatalf("the message %q kept coming for %s", line, limit)
		}
	}
}
