package qmp_test

import (
	"bufio"
	"errors"
	"io"
	"net"
	"slices"
	"syscall"
	"testing"
	"time"

	"qlive/internal/qmp"
)

// A daemon that dies leaves commands behind that nobody waits for. Whoever connects next may rely on it that each of them has been executed or never will
// be, once QEMU answers: recovery decides by that answer who may run the guest.
func TestNothingIsExecutedLate(t *testing.T) {
	eachVersion(t, func(t *testing.T, version string) {
		q := launch(t, version, guestRAM(t))
		awaitSocket(t, q)
		for _, frozen := range []bool{false, true} { // QEMU may be stopped as the daemon dies, and go on when the next one waits
			executed := 0
			const tries = 30
			for range tries {
				if runsAfterLateCont(t, q, frozen) {
					executed++
				}
			}
			t.Logf("stopped meanwhile %v: of %d commands left behind %d were executed, the others dropped", frozen, tries, executed)
		}
	})
}

// runsAfterLateCont leaves a cont behind and tells whether the guest runs once the next client is answered; it fails if that changes afterwards.
func runsAfterLateCont(t *testing.T, q *qemu, frozen bool) bool {
	t.Helper()
	leave := connectRaw(t, q)
	if frozen {
		if err := q.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := leave.Write([]byte(`{"execute":"cont"}` + "\n")); err != nil {
		t.Fatal(err)
	}
	_ = leave.Close() // as the end of a process does it
	if frozen {
		time.AfterFunc(2*time.Millisecond, func() { _ = q.cmd.Process.Signal(syscall.SIGCONT) }) // the next client is there by then, or not
	}
	var seen heard
	next, err := qmp.Dial(within(t, patience), q.socket, qmp.Options{Exited: q.exited, Observers: []qmp.Observer{&seen}})
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close()
	first, err := next.QueryStatus(within(t, patience))
	if err != nil {
		t.Fatal(err)
	}
	early := len(seen.events())       // it may have been executed while this client was greeted
	time.Sleep(10 * time.Millisecond) // for what must not come there is nothing to wait for
	second, err := next.QueryStatus(within(t, patience))
	if err != nil {
		t.Fatal(err)
	}
	if late := seen.events()[early:]; first != second || len(late) > 0 {
		t.Errorf("%+v became %+v, with %v: a command of the dead client was executed late", first, second, late)
	}
	if err := next.Stop(within(t, patience)); err != nil {
		t.Fatal(err)
	}
	return first.Running
}

// heard is an Observer that remembers events.
type heard struct {
	recorder
	names []string // under the recorder's mu
}

func (h *heard) Event(e qmp.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.names = append(h.names, e.Name)
}

func (h *heard) events() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.names)
}

// connectRaw is a client that has negotiated and can go at any time. QEMU may hang up on one that comes before it has seen the last one go.
func connectRaw(t *testing.T, q *qemu) *net.UnixConn {
	t.Helper()
	for deadline := time.Now().Add(patience); ; {
		conn, err := negotiate(q.socket, deadline)
		if err == nil {
			return conn
		}
		if time.Now().After(deadline) {
			t.Fatalf("the monitor has not answered for %s: %v", patience, err)
		}
	}
}

func negotiate(socket string, deadline time.Time) (*net.UnixConn, error) {
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		return nil, err
	}
	lines := bufio.NewScanner(conn)
	err = conn.SetDeadline(deadline)
	if err == nil && lines.Scan() { // the greeting
		_, err = conn.Write([]byte(`{"execute":"qmp_capabilities"}` + "\n"))
		if err == nil && lines.Scan() {
			return conn, nil
		}
	}
	return nil, errors.Join(err, lines.Err(), io.ErrUnexpectedEOF, conn.Close())
}

// awaitSocket waits until the monitor can be met.
func awaitSocket(t *testing.T, q *qemu) {
	t.Helper()
	c, err := qmp.Dial(within(t, patience), q.socket, qmp.Options{Exited: q.exited})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
}
