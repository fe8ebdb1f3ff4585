package qmp_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"qlive/internal/qmp"
	"qlive/internal/qmp/qmptest"
)

// QEMU has no command before Start; then it has all of them, and what others have asked for meanwhile.
func TestAhead(t *testing.T) {
	got := make(chan string, 3)
	c := dial(t, func(m *qmptest.Conn) {
		m.Handshake()
		for range 3 {
			r, ok := m.Next()
			if !ok {
				return
			}
			got <- r.Command
			m.Return(r, nil)
		}
		m.WaitHangUp()
	})
	ctx := within(t, patience)
	a, err := c.Ahead(ctx, qmp.StopCommand(), qmp.Command{Name: "save", Args: map[string]string{"filename": "f"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Cont(within(t, brief)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("another command in between: %v", err)
	}
	other := make(chan error, 1)
	go func() { other <- c.Cont(ctx) }()
	select {
	case name := <-got:
		t.Fatalf("QEMU has %s before it was started", name)
	case <-time.After(short):
	}
	before := time.Now()
	calls, err := a.Start(ctx)
	if err != nil || len(calls) != 2 {
		t.Fatal(calls, err)
	}
	for i, want := range []string{"stop", "save"} {
		if err := calls[i].Wait(ctx, nil); err != nil || calls[i].Sent().Before(before) {
			t.Errorf("%s: %v, sent at %v, started at %v", want, err, calls[i].Sent(), before)
		}
	}
	if err := <-other; err != nil {
		t.Error(err)
	}
	for _, want := range []string{"stop", "save", "cont"} {
		if name := <-got; name != want {
			t.Errorf("%s came, want %s", name, want)
		}
	}
	a.Drop(ctx)
}

// Whoever hangs up has none of it.
func TestAheadOfTheEnd(t *testing.T) {
	hangUp := make(chan struct{})
	c := dial(t, func(m *qmptest.Conn) { m.Handshake(); <-hangUp })
	ctx := within(t, patience)
	a, err := c.Ahead(ctx, qmp.StopCommand())
	if err != nil {
		t.Fatal(err)
	}
	close(hangUp)
	<-c.Done()
	if _, err := a.Start(ctx); !errors.Is(err, qmp.ErrClosed) {
		t.Errorf("Start: %v", err)
	}
	a.Drop(ctx)
	if err := c.Stop(ctx); !errors.Is(err, qmp.ErrClosed) {
		t.Errorf("stop: %v", err)
	}
	var none *qmp.Ahead
	none.Drop(ctx)
}
