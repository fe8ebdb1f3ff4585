package qmp_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"qlive/internal/qmp"
	"qlive/internal/qmp/qmptest"
)

func TestEventCarriesBothTimes(t *testing.T) {
	c := dial(t, func(m *qmptest.Conn) {
		m.Handshake()
		m.Return(m.Expect("migrate"), nil)
		m.Write(`{"timestamp": {"seconds": 1700000000, "microseconds": 123456}, "event": "MIGRATION", "data": {"status": "setup"}}`)
		m.Write(`{"timestamp": {"seconds": -1, "microseconds": -1}, "event": "STOP"}`)
		m.WaitHangUp()
	})
	events := c.Subscribe()
	defer events.Close()
	ctx := within(t, patience)
	begin := time.Now()
	if err := c.Migrate(ctx, "fd:channel"); err != nil {
		t.Fatal(err)
	}
	e, err := events.Next(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if e.Name != qmp.EventMigration || text(e.Data) != `{"status": "setup"}` || e.MigrationStatus() != qmp.MigrationSetup {
		t.Errorf("got %+v", e)
	}
	if want := time.Unix(1700000000, 123456000); !e.QEMUTime.Equal(want) {
		t.Errorf("QEMU's time %v, want %v", e.QEMUTime, want)
	}
	if e.Received.Before(begin) || e.Received.After(time.Now()) {
		t.Errorf("received %v, not since %v", e.Received, begin)
	}
	e, err = events.Next(ctx)
	if err != nil || e.Name != qmp.EventStop || !e.QEMUTime.IsZero() || e.Data != nil || e.MigrationStatus() != "" {
		t.Errorf("an event whose time QEMU does not know: %+v, %v", e, err)
	}
}

func TestSubscriptionFilters(t *testing.T) {
	c := dial(t, func(m *qmptest.Conn) {
		m.Handshake()
		r := m.Expect("cont")
		for _, status := range []string{"setup", "active", "completed"} {
			m.Event("MIGRATION", map[string]string{"status": status})
		}
		m.Event("RESUME", nil)
		m.Event("RTC_CHANGE", map[string]int{"offset": 1})
		m.Return(r, nil)
		m.WaitHangUp()
	})
	all, some := c.Subscribe(), c.Subscribe(qmp.EventStop, qmp.EventResume)
	defer all.Close()
	defer some.Close()
	ctx := within(t, patience)
	if err := c.Cont(ctx); err != nil {
		t.Fatal(err)
	}
	if e, err := some.Next(ctx); err != nil || e.Name != qmp.EventResume {
		t.Errorf("the filtered subscription got %v, %v", e.Name, err)
	}
	if e, err := some.Next(within(t, short)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the filtered subscription got %v, %v as well", e.Name, err)
	}
	e, err := all.Until(ctx, qmp.MigrationIn(qmp.MigrationCompleted, qmp.MigrationFailed))
	if err != nil || e.MigrationStatus() != qmp.MigrationCompleted {
		t.Errorf("Until = %+v, %v", e, err)
	}
	if e, err = all.Until(ctx, qmp.Named(qmp.EventStop, "RTC_CHANGE")); err != nil || e.Name != "RTC_CHANGE" {
		t.Errorf("Until = %+v, %v", e, err)
	}
}

func TestNextEndsWithItsContext(t *testing.T) {
	c := dial(t, func(m *qmptest.Conn) { m.Handshake(); m.WaitHangUp() })
	events := c.Subscribe()
	defer events.Close()
	reason := errors.New("the target has died")
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(short, func() { cancel(reason) })
	if _, err := events.Next(ctx); !errors.Is(err, reason) || !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestCloseEndsNext(t *testing.T) {
	c := dial(t, func(m *qmptest.Conn) { m.Handshake(); m.WaitHangUp() })
	events := c.Subscribe()
	got := make(chan error, 1)
	go func() {
		_, err := events.Next(t.Context())
		got <- err
	}()
	select {
	case err := <-got:
		t.Fatalf("Next returned %v too early", err)
	case <-time.After(short):
	}
	events.Close()
	events.Close()
	if err := <-got; err == nil {
		t.Error("Next gave an event that never was")
	}
}

// Nobody reads, and far more events come than a subscription holds: commands go on, another reader loses nothing, and
// the one that does not read is told.
func TestFloodStallsNothing(t *testing.T) {
	const flood = 10_000
	c := dial(t, func(m *qmptest.Conn) {
		m.Handshake()
		r := m.Expect("one")
		for i := range flood {
			m.Event("FLOOD", i)
		}
		m.Return(r, nil)
		m.Return(m.Expect("two"), nil)
		m.WaitHangUp()
	})
	idle, reader := c.Subscribe(), c.Subscribe("FLOOD")
	ctx := within(t, patience)
	read := make(chan error, 1)
	go func() {
		for i := range flood {
			if e, err := reader.Next(ctx); err != nil || text(e.Data) != fmt.Sprint(i) {
				read <- fmt.Errorf("event %d: got %s, %w", i, e.Data, err)
				return
			}
		}
		read <- nil
	}()
	for _, command := range []string{"one", "two"} {
		if err := c.Do(ctx, command, nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-read; err != nil && !errors.Is(err, qmp.ErrSlow) { // on a slow machine the reader may be too slow as well
		t.Error(err)
	}
	for n := 0; ; n++ {
		e, err := idle.Next(ctx)
		if err == nil {
			if text(e.Data) != fmt.Sprint(n) {
				t.Fatalf("event %d holds %s", n, e.Data)
			}
			continue
		}
		if !errors.Is(err, qmp.ErrSlow) || n == 0 || n == flood {
			t.Errorf("after %d events: %v, want ErrSlow before all are through", n, err)
		}
		break
	}
	if err := c.Err(); err != nil {
		t.Errorf("the connection: %v", err)
	}
}

func TestCloseDropsTheQueue(t *testing.T) {
	c := dial(t, func(m *qmptest.Conn) {
		m.Handshake()
		r := m.Expect("stop")
		m.Event("STOP", nil)
		m.Return(r, nil)
		m.WaitHangUp()
	})
	events := c.Subscribe()
	if err := c.Stop(within(t, patience)); err != nil {
		t.Fatal(err)
	}
	events.Close()
	if e, err := events.Next(within(t, patience)); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, %v from a closed subscription", e.Name, err)
	}
}

func TestEventsBeforeTheEndAreGivenOut(t *testing.T) {
	c := dial(t, func(m *qmptest.Conn) {
		m.Handshake()
		m.Return(m.Expect("quit"), nil)
		m.Event("SHUTDOWN", map[string]any{"guest": false, "reason": "host-qmp-quit"})
	})
	events := c.Subscribe()
	ctx := within(t, patience)
	if err := c.Quit(ctx); err != nil {
		t.Fatal(err)
	}
	wait(t, c.Done(), "the end of the connection")
	if e, err := events.Next(ctx); err != nil || e.Name != qmp.EventShutdown {
		t.Errorf("got %v, %v", e.Name, err)
	}
	if _, err := events.Next(ctx); !errors.Is(err, qmp.ErrClosed) {
		t.Errorf("got %v, want ErrClosed", err)
	}
}
