package qmp_test

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"qlive/internal/qmp"
	"qlive/internal/qmp/qmptest"
)

func TestDialNegotiates(t *testing.T) {
	asked := make(chan string, 1)
	c := dial(t, func(m *qmptest.Conn) {
		m.Greet(7, 2, 22)
		r := m.Expect("qmp_capabilities")
		asked <- text(r.Arguments)
		m.Return(r, nil)
		m.WaitHangUp()
	})
	if got, want := c.Version(), (qmp.Version{Major: 7, Minor: 2, Micro: 22, Package: "a fake"}); got != want {
		t.Errorf("version %+v, want %+v", got, want)
	}
	if got, want := <-asked, `{"enable":["oob"]}`; got != want {
		t.Errorf("negotiated %s, want %s", got, want)
	}
}

func TestDialWithoutOOB(t *testing.T) {
	asked := make(chan string, 1)
	dial(t, func(m *qmptest.Conn) {
		m.Write(`{"QMP":{"version":{"qemu":{"micro":0,"minor":12,"major":2},"package":""},"capabilities":[]}}`)
		r := m.Expect("qmp_capabilities")
		asked <- text(r.Arguments)
		m.Return(r, nil)
		m.WaitHangUp()
	})
	if got := <-asked; got != "" {
		t.Errorf("negotiated %s, want nothing", got)
	}
}

func TestDialWaitsForTheSocket(t *testing.T) {
	serve := func(m *qmptest.Conn) { m.Handshake(); m.WaitHangUp() }
	tests := map[string]func(t *testing.T, path string) (appear func()){
		"missing": func(t *testing.T, path string) func() {
			return func() { qmptest.ListenAt(t, path, serve) }
		},
		"left behind by a dead process": func(t *testing.T, path string) func() {
			stale(t, path)
			return func() {
				if err := os.Remove(path); err != nil {
					t.Error(err)
				}
				qmptest.ListenAt(t, path, serve)
			}
		},
	}
	for name, prepare := range tests {
		t.Run(name, func(t *testing.T) {
			path := qmptest.Path(t)
			appear := prepare(t, path)
			dialed := make(chan error, 1)
			go func() {
				c, err := qmp.Dial(within(t, patience), path, qmp.Options{})
				if err == nil {
					err = c.Close()
				}
				dialed <- err
			}()
			select {
			case err := <-dialed:
				t.Fatalf("Dial returned before anybody listened: %v", err)
			case <-time.After(short):
			}
			appear()
			if err := <-dialed; err != nil {
				t.Error(err)
			}
		})
	}
}

// stale makes a socket that nobody serves.
func stale(t *testing.T, path string) {
	t.Helper()
	t.Run("stale", func(t *testing.T) { // its cleanup ends the listener
		qmptest.ListenAt(t, path+"2", func(*qmptest.Conn) {})
		if err := os.Link(path+"2", path); err != nil {
			t.Fatal(err)
		}
	})
}

func TestDialFails(t *testing.T) {
	exited := make(chan struct{})
	close(exited)
	silent := func(m *qmptest.Conn) { m.WaitHangUp() }
	tests := map[string]struct {
		path   func(t *testing.T) string
		exited <-chan struct{}
		is     error
		says   string
	}{
		"no socket in time": {
			path: qmptestPath, is: context.DeadlineExceeded, says: "no such file",
		},
		"process ended before the socket": {
			path: qmptestPath, exited: exited, is: qmp.ErrExited, says: "cannot connect",
		},
		"process ended before the greeting": {
			path: serving(silent), exited: exited, is: qmp.ErrExited, says: "cannot greet",
		},
		"socket refuses": {
			path: func(t *testing.T) string {
				path := qmptest.Path(t)
				stale(t, path)
				return path
			},
			is: context.DeadlineExceeded, says: "connection refused",
		},
		"path too long": {
			path: func(*testing.T) string { return "/run/" + strings.Repeat("x", 103) }, says: "may have 107",
		},
		"folder forbidden": {
			path: func(t *testing.T) string {
				file := t.TempDir() + "/file"
				if err := os.WriteFile(file, nil, 0o600); err != nil {
					t.Fatal(err)
				}
				return file + "/sock"
			},
			says: "not a directory",
		},
		"no greeting": {
			path: serving(silent), is: context.DeadlineExceeded, says: "one client at a time",
		},
		"hangs up at once": {
			path: serving(func(*qmptest.Conn) {}), is: qmp.ErrClosed, says: "hung up",
		},
		"half a greeting": {
			path: serving(func(m *qmptest.Conn) { m.Write(`{"QMP": {"version"`) }),
			is:   qmp.ErrClosed, says: "in the middle of a message",
		},
		"no QMP": {
			path: serving(func(m *qmptest.Conn) { m.Write("220 mail.example ESMTP\r\n"); m.WaitHangUp() }),
			is:   qmp.ErrClosed, says: "not QMP",
		},
		"JSON but no QMP": {
			path: serving(func(m *qmptest.Conn) { m.Write(`{"hello":1}`); m.WaitHangUp() }),
			is:   qmp.ErrClosed, says: "neither reply, error nor event",
		},
		"negotiation refused": {
			path: serving(func(m *qmptest.Conn) {
				m.Greet(10, 0, 0)
				m.Refuse(m.Expect("qmp_capabilities"), "no capability for you")
				m.WaitHangUp()
			}),
			says: "no capability for you",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			limit := patience
			if errors.Is(tt.is, context.DeadlineExceeded) {
				limit = 4 * short
			}
			c, err := qmp.Dial(within(t, limit), tt.path(t), qmp.Options{Exited: tt.exited})
			if err == nil {
				_ = c.Close()
				t.Fatal("Dial succeeded")
			}
			if tt.is != nil && !errors.Is(err, tt.is) {
				t.Errorf("%v: is not %v", err, tt.is)
			}
			if !strings.HasPrefix(err.Error(), "cannot ") || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("%v: does not say %q", err, tt.says)
			}
		})
	}
}

func qmptestPath(t *testing.T) string { return qmptest.Path(t) }

func serving(script func(*qmptest.Conn)) func(*testing.T) string {
	return func(t *testing.T) string { return qmptest.Listen(t, script) }
}

func TestDialCancelledWithACause(t *testing.T) {
	reason := errors.New("the operator changed his mind")
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(short, func() { cancel(reason) })
	_, err := qmp.Dial(ctx, qmptest.Path(t), qmp.Options{})
	if !errors.Is(err, reason) || !errors.Is(err, context.Canceled) {
		t.Errorf("%v: neither the cause nor Canceled", err)
	}
}
