package qmp_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"qlive/internal/qmp"
	"qlive/internal/qmp/qmptest"
)

// A QEMU that hangs reads nothing. Once the socket is full, sending must still end in time, and all must be well when
// QEMU comes back, even if time ran out in the middle of a command.
func TestSendToAHungQEMU(t *testing.T) {
	for name, size := range map[string]int{"small commands": 20_000, "huge commands": 3_000_000} {
		t.Run(name, func(t *testing.T) {
			wake, stopped := make(chan struct{}), make(chan int, 1)
			c := dial(t, func(m *qmptest.Conn) {
				m.Handshake()
				<-wake
				for n := 0; ; n++ {
					r, ok := m.Next()
					if !ok || r.Command == "stop" {
						stopped <- n
						m.Return(r, nil)
						break
					}
					m.Return(r, len(r.Arguments))
				}
				m.WaitHangUp()
			})
			args := map[string]string{"filler": strings.Repeat("x", size)}
			var calls []*qmp.Call
			for {
				call, err := c.Start(within(t, brief), "fill", args) // encoding takes time too
				if err != nil {
					if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "cannot send fill") {
						t.Fatalf("got %v, want a timeout", err)
					}
					break
				}
				calls = append(calls, call)
				if len(calls) > 1000 {
					t.Fatal("the socket never fills")
				}
			}
			if len(calls) == 0 {
				t.Fatal("the socket never took anything")
			}
			cancelled, cancel := context.WithCancel(t.Context())
			time.AfterFunc(short, cancel)
			if err := c.Stop(cancelled); !errors.Is(err, context.Canceled) {
				t.Errorf("got %v, want Canceled", err)
			}
			close(wake)
			if err := c.Stop(within(t, patience)); err != nil {
				t.Fatalf("QEMU is back, but: %v", err)
			}
			if n := <-stopped; n != len(calls) {
				t.Errorf("QEMU got %d commands before stop, %d were sent", n, len(calls))
			}
			for _, call := range calls {
				var got int
				if err := call.Wait(within(t, patience), &got); err != nil || got != size+len(`{"filler":""}`) {
					t.Errorf("got %d, %v; want %d", got, err, size)
				}
			}
		})
	}
}

// A context that ends just as its command is sent must not cut the next command short.
func TestCancelledSendersHarmNobody(t *testing.T) {
	c := dial(t, func(m *qmptest.Conn) {
		m.Handshake()
		m.Serve(map[string]qmptest.Handler{"query-name": func(qmptest.Request) (any, error) { return struct{}{}, nil }})
	})
	for i := range 500 {
		ctx, cancel := context.WithCancel(t.Context())
		cancelled := make(chan struct{})
		go func() {
			for range i % 100 { // let it fall before, into and after the sending
				runtime.Gosched()
			}
			cancel()
			close(cancelled)
		}()
		if _, err := c.QueryName(ctx); err != nil && !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		if _, err := c.QueryName(within(t, patience)); err != nil {
			t.Fatalf("round %d, the next command: %v", i, err)
		}
		<-cancelled
	}
}

func TestFileGoesWithItsCommand(t *testing.T) {
	content := make(chan string, 1)
	c := dial(t, func(m *qmptest.Conn) {
		m.Handshake()
		r := m.Expect("getfd")
		m.Return(r, nil)
		if r.File == nil {
			content <- "no descriptor"
		} else {
			raw, err := io.ReadAll(r.File)
			content <- fmt.Sprint(string(raw), err, text(r.Arguments))
		}
		m.WaitHangUp()
	})
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := c.Getfd(within(t, patience), "channel", int(r.Fd())); err != nil {
		t.Fatal(err)
	}
	if _, err := w.WriteString("through the pipe"); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if got, want := <-content, `through the pipe<nil>{"fdname":"channel"}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if _, err := r.Stat(); err != nil {
		t.Errorf("the caller's descriptor: %v", err)
	}
}

// QEMU keeps only the last descriptor that it received, so the next must wait for the reply.
func TestFilesGoOneByOne(t *testing.T) {
	release := make(chan struct{})
	c := dial(t, func(m *qmptest.Conn) {
		m.Handshake()
		first := m.Expect("getfd")
		m.Return(m.Expect("stop"), nil)
		<-release
		m.Return(first, nil)
		m.Return(m.Expect("add-fd"), map[string]int{"fdset-id": 7, "fd": 12})
		m.WaitHangUp()
	})
	file, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	fd := int(file.Fd())

	if err := c.Getfd(within(t, brief), "one", fd); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v, want a timeout", err)
	}
	if err := c.Getfd(within(t, short), "two", fd); !errors.Is(err, context.DeadlineExceeded) ||
		!strings.Contains(err.Error(), "has not taken an earlier descriptor") {
		t.Fatalf("got %v, want a timeout that says why", err)
	}
	if err := c.Stop(within(t, patience)); err != nil {
		t.Fatalf("a command without descriptor: %v", err)
	}
	close(release)
	added, err := c.AddFd(within(t, patience), 7, "", fd)
	if want := (qmp.AddedFd{FdsetID: 7, FD: 12}); err != nil || added != want {
		t.Errorf("AddFd = %+v, %v; want %+v", added, err, want)
	}
}

func TestFileFailures(t *testing.T) {
	c := dial(t, func(m *qmptest.Conn) {
		m.Handshake()
		m.Refuse(m.Expect("getfd"), "Parameter 'fdname' expects a name not starting with a digit")
		m.Expect("getfd")
	})
	ctx := within(t, patience)
	if err := c.Getfd(ctx, "bad", 1<<30); err == nil || !strings.Contains(err.Error(), "bad file descriptor") {
		t.Errorf("a descriptor that is none: %v", err)
	}
	if err := c.Getfd(ctx, "0", int(os.Stdin.Fd())); err == nil || !strings.Contains(err.Error(), "not starting with a digit") {
		t.Errorf("a name that QEMU refuses: %v", err)
	}
	if err := c.Getfd(ctx, "one", int(os.Stdin.Fd())); !errors.Is(err, qmp.ErrClosed) {
		t.Errorf("QEMU hangs up: %v", err)
	}
	if err := c.Getfd(ctx, "two", int(os.Stdin.Fd())); !errors.Is(err, qmp.ErrClosed) {
		t.Errorf("after QEMU hung up: %v", err)
	}
}
