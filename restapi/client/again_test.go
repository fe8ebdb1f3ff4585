package client_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"qlive/restapi/client"
	"qlive/vmstate"
)

// dying is a daemon that dies over the first of its requests, as the next one listens already. It returns how many requests have come.
func dying(t *testing.T, answer string) (socket string, asked func() int) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	count, done := 0, make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			req, err := http.ReadRequest(bufio.NewReader(conn))
			if err == nil {
				_, _ = io.Copy(io.Discard, req.Body)
			}
			if count++; count > 1 {
				_, _ = io.WriteString(conn, answer)
			}
			conn.Close()
		}
	}()
	return socket, func() int { l.Close(); <-done; return count }
}

// What only asks is asked again of the next daemon; what changes something is not, for who knows whether it was done.
func TestADaemonDiesBeforeItAnswers(t *testing.T) {
	const body = `{"items":[]}`
	socket, asked := dying(t, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: 12\r\n\r\n"+body)
	c := client.New(socket)
	defer c.Close()
	if _, err := c.VMs(t.Context()); err != nil {
		t.Errorf("a read: %v", err)
	}
	if n := asked(); n != 2 {
		t.Errorf("a read was asked %d times", n)
	}

	socket, asked = dying(t, "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
	other := client.New(socket)
	defer other.Close()
	err := other.RemoveVM(t.Context(), "vm1", true)
	if vmstate.KindOf(err) != vmstate.Unavailable || !strings.Contains(err.Error(), "cannot reach the daemon") {
		t.Errorf("a change: %v", err)
	}
	if n := asked(); n != 1 {
		t.Errorf("a change was asked for %d times", n)
	}
}
