package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// monitor is the least that speaks QMP: a blocking unix socket, one command at a time, events kept in order. It is
// not the product's client on purpose: it is what the product is measured against.
type monitor struct {
	fd     int
	end    func() bool // takes back that the end of a context ends the connection
	buf    []byte
	start  int // of what is not yet taken out of buf
	events []event
}

// event is one of QEMU's.
type event struct {
	name   string
	status string    // of MIGRATION
	qemu   time.Time // as QEMU stamped it
}

// silence is how long a QEMU may say nothing while an answer is awaited: a floor that hangs ends the run.
const silence = 60 * time.Second

// dialMonitor connects to a monitor and negotiates. Whoever waits for it is freed when ctx ends.
func dialMonitor(ctx context.Context, path string) (*monitor, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	limit := unix.NsecToTimeval(silence.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	m := &monitor{fd: fd}
	m.end = context.AfterFunc(ctx, func() { _ = unix.Shutdown(fd, unix.SHUT_RDWR) }) // an error means that QEMU has hung up
	if _, err := m.line(); err != nil {                                              // the greeting
		_ = m.close()
		return nil, err
	}
	// With oob QEMU reads the next command while it executes one.
	if err := m.do(`{"execute":"qmp_capabilities","arguments":{"enable":["oob"]}}`, nil); err != nil {
		_ = m.close()
		return nil, err
	}
	return m, nil
}

func (m *monitor) close() error {
	if m.end() {
		return unix.Close(m.fd)
	}
	return nil // it is being shut down this moment: its number must not be used again
}

// send writes a command, with a descriptor if fd is not negative.
func (m *monitor) send(command string, fd int) error {
	var rights []byte
	if fd >= 0 {
		rights = unix.UnixRights(fd)
	}
	return unix.Sendmsg(m.fd, []byte(command), rights, nil, unix.MSG_NOSIGNAL)
}

// do sends a command and waits for its reply, which it decodes into out if that is not nil.
func (m *monitor) do(command string, out any) error { return m.doWith(command, -1, out) }

func (m *monitor) doWith(command string, fd int, out any) error {
	if err := m.send(command, fd); err != nil {
		return fmt.Errorf("cannot send %s: %w", command, err)
	}
	return m.reply(command, out)
}

// reply waits for the reply to the oldest command that has none.
func (m *monitor) reply(command string, out any) error {
	for {
		msg, err := m.next()
		if err != nil {
			return fmt.Errorf("cannot get the reply to %s: %w", command, err)
		}
		switch {
		case msg.Error != nil:
			return fmt.Errorf("cannot do %s: %s", command, msg.Error.Desc)
		case msg.Return == nil: // an event
		case out != nil:
			return json.Unmarshal(msg.Return, out)
		default:
			return nil
		}
	}
}

// await waits for an event that ok takes, those already read first. What comes before it is dropped.
func (m *monitor) await(what string, ok func(event) (bool, error)) (event, error) {
	for {
		for i, e := range m.events {
			if done, err := ok(e); done || err != nil {
				m.events = m.events[i+1:]
				return e, err
			}
		}
		m.events = m.events[:0]
		if _, err := m.next(); err != nil {
			return event{}, fmt.Errorf("cannot see %s: %w", what, err)
		}
	}
}

// seen is the first event of that name that was read and not yet taken.
func (m *monitor) seen(name string) (event, bool) {
	for _, e := range m.events {
		if e.name == name {
			return e, true
		}
	}
	return event{}, false
}

// named takes events of that name, and does not wait for them once a migration has failed.
func named(name string) func(event) (bool, error) {
	return func(e event) (bool, error) { return e.name == name, failed(e) }
}

// migrated takes the end of a migration.
func migrated(e event) (bool, error) {
	return e.name == "MIGRATION" && e.status == "completed", failed(e)
}

func failed(e event) error {
	if e.name == "MIGRATION" && (e.status == "failed" || e.status == "cancelled") {
		return fmt.Errorf("cannot migrate: it has %s", e.status)
	}
	return nil
}

type message struct {
	Return    json.RawMessage
	Error     *struct{ Desc string }
	Event     string
	Data      struct{ Status string }
	Timestamp struct{ Seconds, Microseconds int64 }
}

// next reads one message; an event is kept.
func (m *monitor) next() (message, error) {
	line, err := m.line()
	if err != nil {
		return message{}, err
	}
	var msg message
	if err := json.Unmarshal(line, &msg); err != nil {
		var text struct{ Event string } // an event whose data has another shape
		if json.Unmarshal(line, &text) != nil || text.Event == "" {
			return message{}, err
		}
		msg = message{Event: text.Event}
	}
	if msg.Event != "" {
		at := time.Unix(msg.Timestamp.Seconds, msg.Timestamp.Microseconds*1000)
		m.events = append(m.events, event{msg.Event, msg.Data.Status, at})
	}
	return msg, nil
}

// line reads up to the next newline.
func (m *monitor) line() ([]byte, error) {
	for {
		if i := bytes.IndexByte(m.buf[m.start:], '\n'); i >= 0 {
			line := m.buf[m.start : m.start+i]
			m.start += i + 1
			return line, nil
		}
		m.buf, m.start = append(m.buf[:0], m.buf[m.start:]...), 0
		m.buf = append(m.buf, make([]byte, 64<<10)...)
		n, err := unix.Read(m.fd, m.buf[len(m.buf)-64<<10:])
		m.buf = m.buf[:len(m.buf)-64<<10+max(n, 0)]
		switch {
		case err == unix.EINTR:
		case err == unix.EAGAIN:
			return nil, fmt.Errorf("QEMU has said nothing for %s", silence)
		case err != nil:
			return nil, err
		case n == 0:
			return nil, fmt.Errorf("QEMU has closed its monitor")
		}
	}
}
