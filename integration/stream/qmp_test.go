package stream_test

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"syscall"
	"testing"
	"time"
)

// monitor is the least that speaks QMP: one command at a time, events thrown away.
type monitor struct {
	t    *testing.T
	conn *net.UnixConn
	dec  *json.Decoder
}

func dialMonitor(t *testing.T, path string, died func() error) *monitor {
	t.Helper()
	var conn *net.UnixConn
	waitFor(t, 30*time.Second, func() error {
		if err := died(); err != nil {
			t.Fatal(err)
		}
		var err error
		conn, err = net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
		return err
	})
	t.Cleanup(func() { conn.Close() })
	m := &monitor{t: t, conn: conn, dec: json.NewDecoder(conn)}
	var greeting json.RawMessage
	if err := m.dec.Decode(&greeting); err != nil {
		t.Fatalf("no greeting: %v", err)
	}
	m.do("qmp_capabilities", nil, nil)
	return m
}

// try sends a command, with files if there are any, and decodes its return into out.
func (m *monitor) try(command string, args, out any, files ...*os.File) error {
	m.conn.SetDeadline(time.Now().Add(30 * time.Second))
	line, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
	}{command, args})
	if err != nil {
		return err
	}
	var rights []byte
	for _, f := range files {
		rights = append(rights, syscall.UnixRights(int(f.Fd()))...)
	}
	if _, _, err := m.conn.WriteMsgUnix(append(line, '\n'), rights, nil); err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	for {
		var reply struct {
			Return json.RawMessage
			Error  *struct{ Class, Desc string }
			Event  string
		}
		if err := m.dec.Decode(&reply); err != nil {
			return fmt.Errorf("%s: %w", command, err)
		}
		switch {
		case reply.Event != "":
		case reply.Error != nil:
			return fmt.Errorf("%s: %s", command, reply.Error.Desc)
		case out != nil:
			return json.Unmarshal(reply.Return, out)
		default:
			return nil
		}
	}
}

func (m *monitor) do(command string, args, out any, files ...*os.File) {
	m.t.Helper()
	if err := m.try(command, args, out, files...); err != nil {
		m.t.Fatal(err)
	}
}

func (m *monitor) status() string {
	m.t.Helper()
	var s struct{ Status string }
	m.do("query-status", nil, &s)
	return s.Status
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
