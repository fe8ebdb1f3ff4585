package qmp_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"qlive/internal/qmp"
	"qlive/internal/qmp/qmptest"
)

func TestDoFraming(t *testing.T) {
	big := strings.Repeat("x", 300_000)
	tests := map[string]func(m *qmptest.Conn, r qmptest.Request){
		"one line": func(m *qmptest.Conn, r qmptest.Request) {
			m.Write(fmt.Sprintf(`{"return": {"name": "vm1"}, "id": %s}`+"\r\n", r.ID))
		},
		"no line end": func(m *qmptest.Conn, r qmptest.Request) {
			m.Write(fmt.Sprintf(`{"return": {"name": "vm1"}, "id": %s}`, r.ID))
		},
		"byte by byte": func(m *qmptest.Conn, r qmptest.Request) {
			for _, b := range []byte(fmt.Sprintf(`{"return": {"name": "vm1"}, "id": %s}`+"\r\n", r.ID)) {
				m.Write(string(b))
			}
		},
		"pretty": func(m *qmptest.Conn, r qmptest.Request) {
			m.Write(fmt.Sprintf("{\r\n    \"return\": {\r\n        \"name\": \"vm1\"\r\n    },\r\n    \"id\": %s\r\n}\r\n", r.ID))
		},
		"with events in one write": func(m *qmptest.Conn, r qmptest.Request) {
			event := `{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "STOP"}` + "\r\n"
			m.Write(event + fmt.Sprintf(`{"return": {"name": "vm1"}, "id": %s}`+"\r\n", r.ID) + event)
		},
		"huge line": func(m *qmptest.Conn, r qmptest.Request) {
			m.Write(fmt.Sprintf(`{"id": %s, "return": {"filler": %q, "name": "vm1"}}`+"\r\n", r.ID, big))
		},
		"a reply to nothing before": func(m *qmptest.Conn, r qmptest.Request) {
			m.Write(`{"return": {}, "id": 12345}{"return": {}, "id": "text"}{"return": {}}` + "\r\n")
			m.Write(`{"error": {"class": "GenericError", "desc": "who"}, "id": 777}` + "\r\n")
			m.Return(r, map[string]string{"name": "vm1"})
		},
		"a second greeting before": func(m *qmptest.Conn, r qmptest.Request) {
			m.Greet(1, 2, 3)
			m.Return(r, map[string]string{"name": "vm1"})
		},
	}
	for name, reply := range tests {
		t.Run(name, func(t *testing.T) {
			c := dial(t, func(m *qmptest.Conn) {
				m.Handshake()
				reply(m, m.Expect("query-name"))
				m.Return(m.Expect("stop"), nil)
				m.WaitHangUp()
			})
			ctx := within(t, patience)
			if got, err := c.QueryName(ctx); err != nil || got != "vm1" {
				t.Fatalf("QueryName = %q, %v", got, err)
			}
			if err := c.Stop(ctx); err != nil {
				t.Errorf("the next command: %v", err)
			}
			if got := c.Version().Major; got != 10 {
				t.Errorf("major version %d, want 10", got)
			}
		})
	}
}

func TestDoRefused(t *testing.T) {
	c := dial(t, func(m *qmptest.Conn) {
		m.Handshake()
		m.Serve(map[string]qmptest.Handler{
			"cont": func(qmptest.Request) (any, error) { return nil, errors.New("Migration is not finalized yet") },
		})
	})
	ctx := within(t, patience)

	err := c.Cont(ctx)
	refusal, ok := errors.AsType[*qmp.Error](err)
	if !ok || refusal.Class != "GenericError" || refusal.Desc != "Migration is not finalized yet" {
		t.Fatalf("got %v, want QEMU's error", err)
	}
	if got, want := err.Error(), "cannot execute cont: Migration is not finalized yet"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	err = c.Do(ctx, "x-frobnicate", nil, nil)
	if refusal, ok := errors.AsType[*qmp.Error](err); !ok || refusal.Class != qmp.ClassCommandNotFound {
		t.Errorf("got %v, want class %s", err, qmp.ClassCommandNotFound)
	}
}

func TestDoBadValues(t *testing.T) {
	c := dial(t, func(m *qmptest.Conn) {
		m.Handshake()
		m.Serve(map[string]qmptest.Handler{
			"query-status": func(qmptest.Request) (any, error) { return []int{1}, nil },
			"echo":         func(r qmptest.Request) (any, error) { return string(r.Arguments), nil },
		})
	})
	ctx := within(t, patience)
	if _, err := c.QueryStatus(ctx); err == nil || !strings.Contains(err.Error(), "cannot understand the reply to query-status") {
		t.Errorf("a reply of another shape: %v", err)
	}
	for name, args := range map[string]any{"a list": []int{1}, "a number": 1, "unmarshalable": make(chan int)} {
		if err := c.Do(ctx, "echo", args, nil); err == nil || !strings.Contains(err.Error(), "arguments of echo") {
			t.Errorf("%s for arguments: %v", name, err)
		}
	}
	for args, want := range map[any]string{
		nil: "", struct{}{}: "", (*struct{})(nil): "",
		struct {
			A string `json:"a"`
		}{"<&>\"é"}: `{"a":"<&>\"é"}`,
	} {
		var got string
		if err := c.Do(ctx, "echo", args, &got); err != nil || got != want {
			t.Errorf("arguments %#v arrive as %s (%v), want %s", args, got, err, want)
		}
	}
}

// A command that QEMU cannot parse is answered in its turn, without an id.
func TestErrorWithoutID(t *testing.T) {
	c := dial(t, func(m *qmptest.Conn) {
		m.Handshake()
		first, _, third := m.Expect("one"), m.Expect("two"), m.Expect("three")
		m.Return(first, nil)
		m.Write(`{"error": {"class": "GenericError", "desc": "JSON parse error"}}` + "\r\n")
		m.Return(third, nil)
		m.WaitHangUp()
	})
	ctx := within(t, patience)
	calls, err := c.StartAll(ctx, qmp.Command{Name: "one"}, qmp.Command{Name: "two"}, qmp.Command{Name: "three"})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"", "cannot execute two: JSON parse error", ""} {
		if err := calls[i].Wait(ctx, nil); fmt.Sprint(err) != want && (err != nil || want != "") {
			t.Errorf("call %d: got %v, want %q", i, err, want)
		}
	}
}

func TestStartAllIsOneWrite(t *testing.T) {
	reads := make(chan int, 1)
	c := dial(t, func(m *qmptest.Conn) {
		m.Handshake()
		before := m.Reads()
		first, second := m.Expect("stop"), m.Expect("xen-save-devices-state")
		reads <- m.Reads() - before
		m.Return(first, nil)
		m.Return(second, nil)
		m.WaitHangUp()
	})
	ctx := within(t, patience)
	begin := time.Now()
	calls, err := c.StartAll(ctx, qmp.StopCommand(), qmp.XenSaveDevicesStateCommand("/dev/fdset/1", true))
	if err != nil {
		t.Fatal(err)
	}
	for _, call := range calls {
		if err := call.Wait(ctx, nil); err != nil {
			t.Error(err)
		}
		if call.Sent().Before(begin) || call.Received().Before(call.Sent()) || call.Received().After(time.Now()) {
			t.Errorf("sent %v, received %v: not between %v and now", call.Sent(), call.Received(), begin)
		}
	}
	if n := <-reads; n != 1 {
		t.Errorf("the commands came in %d reads, want 1", n)
	}
	if calls, err := c.StartAll(ctx); calls != nil || err != nil {
		t.Errorf("no commands: %v, %v", calls, err)
	}
}

func TestTimeoutKeepsTheConnection(t *testing.T) {
	release := make(chan struct{})
	seen := &recorder{}
	c := dial(t, func(m *qmptest.Conn) {
		m.Handshake()
		slow := m.Expect("query-block")
		<-release
		m.Return(slow, nil)
		m.Return(m.Expect("stop"), nil)
		m.WaitHangUp()
	}, seen)

	_, err := c.QueryBlock(within(t, brief))
	if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, qmp.ErrClosed) {
		t.Fatalf("got %v, want a timeout", err)
	}
	if !strings.Contains(err.Error(), "cannot execute query-block: no reply from QEMU in ") {
		t.Errorf("%v: does not name the command", err)
	}
	if err := c.Err(); err != nil {
		t.Errorf("the connection is closed: %v", err)
	}
	close(release)
	if err := c.Stop(within(t, patience)); err != nil {
		t.Errorf("the next command: %v", err)
	}
	_, replies, _ := seen.snapshot()
	if n := len(replies); n != 3 || replies[1].Command != "query-block" || replies[1].Err != nil {
		t.Errorf("observed %+v, want the late reply too", replies)
	}
}

func TestCancelWithACause(t *testing.T) {
	c := dial(t, func(m *qmptest.Conn) { m.Handshake(); m.WaitHangUp() })
	reason := errors.New("the target has died")
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(short, func() { cancel(reason) })
	if err := c.Stop(ctx); !errors.Is(err, reason) || !errors.Is(err, context.Canceled) {
		t.Errorf("%v: neither the cause nor Canceled", err)
	}
	if err := c.Stop(ctx); !errors.Is(err, reason) {
		t.Errorf("a command under an ended context: %v", err)
	}
}

func TestWaitAgain(t *testing.T) {
	release := make(chan struct{})
	c := dial(t, func(m *qmptest.Conn) {
		m.Handshake()
		r := m.Expect("query-name")
		<-release
		m.Return(r, map[string]string{"name": "vm1"})
		m.WaitHangUp()
	})
	call, err := c.Start(t.Context(), "query-name", nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := call.Wait(within(t, short), nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v, want a timeout", err)
	}
	if !call.Received().IsZero() {
		t.Errorf("received at %v before it was", call.Received())
	}
	close(release)
	wait(t, call.Done(), "the reply")
	expired, cancel := context.WithCancel(t.Context())
	cancel()
	var got struct{ Name string }
	if err := call.Wait(expired, &got); err != nil || got.Name != "vm1" {
		t.Errorf("a reply that is there, under an ended context: %+v, %v", got, err)
	}
}

func TestConnectionEnds(t *testing.T) {
	tests := map[string]struct {
		end  func(m *qmptest.Conn)
		says string
	}{
		"between messages":      {func(*qmptest.Conn) {}, "QEMU hung up"},
		"in mid-reply":          {func(m *qmptest.Conn) { m.Write(`{"return": {"sta`) }, "in the middle of a message"},
		"with rubbish":          {func(m *qmptest.Conn) { m.Write("Segmentation fault\n"); m.WaitHangUp() }, "not QMP"},
		"with a wrong event":    {func(m *qmptest.Conn) { m.Write(`{"event": 5}`); m.WaitHangUp() }, "not QMP"},
		"with an empty message": {func(m *qmptest.Conn) { m.Write(`{}`); m.WaitHangUp() }, "neither"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			seen := &recorder{}
			c := dial(t, func(m *qmptest.Conn) {
				m.Handshake()
				m.Expect("one")
				m.Expect("two")
				tt.end(m)
			}, seen)
			events := c.Subscribe()
			ctx := within(t, patience)
			calls, err := c.StartAll(ctx, qmp.Command{Name: "one"}, qmp.Command{Name: "two"})
			if err != nil {
				t.Fatal(err)
			}
			for _, call := range calls {
				if err := call.Wait(ctx, nil); !errors.Is(err, qmp.ErrClosed) || !strings.Contains(err.Error(), tt.says) {
					t.Errorf("a waiting call: %v", err)
				}
			}
			wait(t, c.Done(), "the end of the connection")
			if err := c.Err(); !errors.Is(err, qmp.ErrClosed) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("Err: %v", err)
			}
			if _, err := events.Next(ctx); !errors.Is(err, qmp.ErrClosed) {
				t.Errorf("a subscription: %v", err)
			}
			if _, err := c.Subscribe().Next(ctx); !errors.Is(err, qmp.ErrClosed) {
				t.Errorf("a subscription made afterwards: %v", err)
			}
			if err := c.Stop(ctx); !errors.Is(err, qmp.ErrClosed) || !strings.Contains(err.Error(), "stop") {
				t.Errorf("a command sent afterwards: %v", err)
			}
			if sent, replies, _ := seen.snapshot(); len(sent) != 3 || len(replies) != 3 {
				t.Errorf("observed %d commands and %d replies, want 3 of each", len(sent), len(replies))
			}
		})
	}
}

func TestCloseFailsWhatWaits(t *testing.T) {
	c := dial(t, func(m *qmptest.Conn) { m.Handshake(); m.WaitHangUp() })
	call, err := c.Start(t.Context(), "query-status", nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if err := call.Wait(t.Context(), nil); !errors.Is(err, qmp.ErrClosed) || !strings.Contains(err.Error(), "closed here") {
		t.Errorf("a waiting call: %v", err)
	}
	if err := c.Close(); err != nil {
		t.Errorf("a second Close: %v", err)
	}
}

func TestQuit(t *testing.T) {
	for name, last := range map[string]func(*qmptest.Conn, qmptest.Request){
		"replies":  func(m *qmptest.Conn, r qmptest.Request) { m.Return(r, nil) },
		"hangs up": func(*qmptest.Conn, qmptest.Request) {},
	} {
		t.Run(name, func(t *testing.T) {
			c := dial(t, func(m *qmptest.Conn) { m.Handshake(); last(m, m.Expect("quit")) })
			if err := c.Quit(within(t, patience)); err != nil {
				t.Error(err)
			}
		})
	}
}

// Whatever the order of the replies and however they are cut, every call gets its own.
func TestRepliesFindTheirCalls(t *testing.T) {
	type step struct {
		order []int
		cuts  []int
	}
	steps := make(chan step)
	c := dial(t, func(m *qmptest.Conn) {
		m.Handshake()
		for s := range steps {
			requests := make([]qmptest.Request, len(s.order))
			for i := range requests {
				requests[i] = m.Expect("echo")
			}
			var raw string
			for _, i := range s.order {
				raw += fmt.Sprintf(`{"return":%s,"id":%s}`, requests[i].Arguments, requests[i].ID)
				raw += `{"event":"RESUME","timestamp":{"seconds":1,"microseconds":1}}` + "\r\n"
			}
			for _, cut := range s.cuts {
				cut = min(cut, len(raw))
				if cut > 0 {
					m.Write(raw[:cut])
				}
				raw = raw[cut:]
			}
			if raw != "" {
				m.Write(raw)
			}
		}
	})
	t.Cleanup(func() { close(steps) })
	ctx := within(t, 3*patience)
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 12).Draw(t, "commands")
		indexes := make([]int, n)
		commands := make([]qmp.Command, n)
		for i := range indexes {
			indexes[i] = i
			commands[i] = qmp.Command{Name: "echo", Args: map[string]int{"n": i}}
		}
		s := step{
			order: rapid.Permutation(indexes).Draw(t, "order"),
			cuts:  rapid.SliceOf(rapid.IntRange(1, 200)).Draw(t, "cuts"),
		}
		steps <- s
		calls, err := c.StartAll(ctx, commands...)
		if err != nil {
			t.Fatal(err)
		}
		for i, call := range calls {
			var got struct{ N int }
			if err := call.Wait(ctx, &got); err != nil || got.N != i {
				t.Fatalf("call %d got %d, %v", i, got.N, err)
			}
		}
	})
}

func TestManyCallers(t *testing.T) {
	c := dial(t, func(m *qmptest.Conn) {
		m.Handshake()
		m.Serve(map[string]qmptest.Handler{
			"echo": func(r qmptest.Request) (any, error) { return json.RawMessage(r.Arguments), nil },
		})
	})
	var callers sync.WaitGroup
	ctx := within(t, patience)
	for i := range 16 {
		callers.Go(func() {
			for k := range 50 {
				var got struct{ N int }
				if err := c.Do(ctx, "echo", map[string]int{"n": 1000*i + k}, &got); err != nil || got.N != 1000*i+k {
					t.Errorf("%d/%d: got %d, %v", i, k, got.N, err)
				}
			}
		})
	}
	callers.Wait()
}
