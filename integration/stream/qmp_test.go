package stream_test

import (
	"context"
	"os"
	"testing"
	"time"

	"qlive/internal/qmp"
)

// monitor asks a QEMU, and fails the test if it refuses.
type monitor struct {
	t *testing.T
	*qmp.Client
}

// dialMonitor waits for the socket until the process is gone.
func dialMonitor(t *testing.T, path string, exited <-chan struct{}) *monitor {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	client, err := qmp.Dial(ctx, path, qmp.Options{Exited: exited})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return &monitor{t, client}
}

func (m *monitor) do(command string, args, out any) {
	m.t.Helper()
	if err := m.Do(m.t.Context(), command, args, out); err != nil {
		m.t.Fatal(err)
	}
}

// give sends a command together with a file.
func (m *monitor) give(command string, args any, f *os.File) {
	m.t.Helper()
	if err := m.DoWithFile(m.t.Context(), command, args, nil, int(f.Fd())); err != nil {
		m.t.Fatal(err)
	}
}

func (m *monitor) status() string {
	m.t.Helper()
	s, err := m.QueryStatus(m.t.Context())
	if err != nil {
		m.t.Fatal(err)
	}
	return string(s.Status)
}

// waitFor asks again and again until check is content, and fails with its last answer.
func waitFor(t *testing.T, limit time.Duration, check func() error) {
	t.Helper()
	for deadline := time.Now().Add(limit); ; time.Sleep(2 * time.Millisecond) {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %v", limit, err)
		}
	}
}
