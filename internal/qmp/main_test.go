package qmp_test

import (
	"context"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"qlive/internal/qmp"
	"qlive/internal/qmp/qmptest"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds what must happen; a test that fails by it tells what it waited for.
const patience = 20 * time.Second

// short is how long a test looks whether something happens that must not.
const short = 50 * time.Millisecond

// brief is a deadline that is to pass, though not before the command has been sent, be the machine ever so busy.
const brief = time.Second

func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// dial connects to a fake monitor that runs the script.
func dial(t *testing.T, script func(*qmptest.Conn), observers ...qmp.Observer) *qmp.Client {
	t.Helper()
	c, err := qmp.Dial(within(t, patience), qmptest.Listen(t, script), qmp.Options{Observers: observers})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return c
}

// wait for a channel to be closed, or say what did not happen.
func wait(t *testing.T, done <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatalf("waited %s in vain for %s", patience, what)
	}
}

// golden compares got with a file, or writes it.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Errorf("%s: got\n%s\nwant\n%s", path, got, want)
	}
}

// recorder is an Observer that remembers.
type recorder struct {
	mu      sync.Mutex
	sent    []qmp.Query
	replies []qmp.Reply
	events  []qmp.Event
}

func (r *recorder) Sent(q qmp.Query) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sent = append(r.sent, q)
}

func (r *recorder) Replied(reply qmp.Reply) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.replies = append(r.replies, reply)
}

func (r *recorder) Event(e qmp.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
}

func (r *recorder) snapshot() (sent []qmp.Query, replies []qmp.Reply, events []qmp.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.sent), slices.Clone(r.replies), slices.Clone(r.events)
}

func text(raw json.RawMessage) string { return string(raw) }
