package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// fakeQEMU answers each command with the lines that the script has for it, then hangs up if the script says "EOF".
func fakeQEMU(t *testing.T, script map[string][]string) *monitor {
	t.Helper()
	m, err := dialFake(t, t.Context(), script)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.close() })
	return m
}

func dialFake(t *testing.T, ctx context.Context, script map[string][]string) (*monitor, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "qmp")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { l.Close(); <-done })
	go func() {
		defer close(done)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		fmt.Fprintln(conn, `{"QMP":{}}`)
		for commands := json.NewDecoder(bufio.NewReader(conn)); ; {
			var c struct{ Execute string }
			if commands.Decode(&c) != nil {
				return
			}
			lines, ok := script[c.Execute]
			if !ok {
				lines = []string{`{"return":{}}`}
			}
			for _, line := range lines {
				if line == "EOF" {
					return
				}
				fmt.Fprintln(conn, line)
			}
		}
	}()
	return dialMonitor(ctx, path)
}

func TestMonitor(t *testing.T) {
	const stopped = `{"timestamp":{"seconds":5,"microseconds":250000},"event":"STOP"}`
	const completed = `{"timestamp":{"seconds":5,"microseconds":1},"event":"MIGRATION","data":{"status":"completed"}}`
	long := strings.Repeat("x", 300<<10)
	m := fakeQEMU(t, map[string][]string{
		"stop":    {stopped, `{"return":{}}`},
		"migrate": {`{"return":{}}`, `{"event":"MIGRATION","data":{"status":"setup"}}`, completed},
		"long":    {fmt.Sprintf(`{"return":%q}`, long)},
		"bad":     {`{"error":{"class":"GenericError","desc":"no such thing"}}`},
		"odd":     {`{"event":"ODD","data":{"status":{"a":1}}}`, `{"return":{}}`},
		"fail":    {`{"return":{}}`, `{"event":"MIGRATION","data":{"status":"failed"}}`},
		"quit":    {"EOF"},
	})
	execute := func(name string, out any) error { return m.do(fmt.Sprintf(`{"execute":%q}`, name), out) }

	if err := execute("stop", nil); err != nil {
		t.Fatal(err)
	}
	if e, ok := m.seen("STOP"); !ok || !e.qemu.Equal(time.Unix(5, 250e6)) {
		t.Errorf("STOP: %v, %v", e, ok)
	}
	if _, ok := m.seen("RESUME"); ok {
		t.Error("RESUME was seen")
	}
	if err := execute("migrate", nil); err != nil {
		t.Fatal(err)
	}
	if e, err := m.await("the end", migrated); err != nil || e.status != "completed" {
		t.Errorf("await: %v, %v", e, err)
	}
	var text string
	if err := execute("long", &text); err != nil || text != long {
		t.Errorf("long: %d bytes, %v", len(text), err)
	}
	if err := execute("bad", nil); err == nil || !strings.Contains(err.Error(), "no such thing") {
		t.Errorf("bad: %v", err)
	}
	if err := execute("odd", nil); err != nil {
		t.Errorf("an event of another shape: %v", err)
	}
	if err := execute("fail", nil); err != nil {
		t.Fatal(err)
	}
	if _, err := m.await("STOP", named("STOP")); err == nil || !strings.Contains(err.Error(), "failed") {
		t.Errorf("an event that will not come: %v", err)
	}
	if err := execute("quit", nil); err == nil || !strings.Contains(err.Error(), "closed its monitor") {
		t.Errorf("quit: %v", err)
	}
}

// Whoever waits for a QEMU that says nothing is freed when the context ends.
func TestMonitorEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	m, err := dialFake(t, ctx, map[string][]string{"hang": {}})
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(10*time.Millisecond, cancel)
	if err := m.do(`{"execute":"hang"}`, nil); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if err := m.close(); err != nil {
		t.Error(err)
	}
}
