package qmptest

import (
	"encoding/json"
	"net"
	"os"
	"time"
)

// Conn is a client's connection, in the hands of a script. A step that does not go as written fails the test and ends
// the script.
type Conn struct {
	server *server
	socket *net.UnixConn
	json   *json.Decoder
	reads  int        // reads that brought bytes
	files  []*os.File // received and not claimed by a command
}

// Request is a command that the client has sent.
type Request struct {
	Command   string          `json:"execute"`
	Arguments json.RawMessage `json:"arguments"`
	ID        json.RawMessage `json:"id"`
	File      *os.File        `json:"-"` // that came with getfd or add-fd; closed when the script returns
}

// Handshake greets as QEMU 10.0.13 and expects the negotiation.
func (c *Conn) Handshake() {
	c.Greet(10, 0, 13)
	c.Return(c.Expect("qmp_capabilities"), nil)
}

// Greet sends the greeting of a version.
func (c *Conn) Greet(major, minor, micro int) {
	c.send(map[string]any{"QMP": map[string]any{
		"version": map[string]any{
			"qemu":    map[string]int{"major": major, "minor": minor, "micro": micro},
			"package": "a fake",
		},
		"capabilities": []string{"oob"},
	}})
}

// Next is the next command, false once the client has hung up.
func (c *Conn) Next() (Request, bool) {
	var r Request
	if err := c.json.Decode(&r); err != nil {
		return Request{}, false
	}
	if (r.Command == "getfd" || r.Command == "add-fd") && len(c.files) > 0 {
		r.File = c.files[len(c.files)-1] // QEMU too keeps only the last
	}
	return r, true
}

// Expect is the next command, which must be of that name.
func (c *Conn) Expect(command string) Request {
	r, ok := c.Next()
	switch {
	case !ok:
		c.server.failf("expected %s, and the client hung up", command)
	case r.Command != command:
		c.server.failf("expected %s, got %s", command, r.Command)
	}
	return r
}

// Reads counts the reads from the socket that brought anything: two commands in one read were sent in one write.
func (c *Conn) Reads() int { return c.reads }

// Return answers a request; a nil value is QEMU's empty object.
func (c *Conn) Return(r Request, value any) {
	if value == nil {
		value = struct{}{}
	}
	c.send(map[string]any{"return": value, "id": r.ID})
}

// Refuse answers a request with an error of class GenericError.
func (c *Conn) Refuse(r Request, desc string) {
	c.send(map[string]any{"error": map[string]string{"class": "GenericError", "desc": desc}, "id": r.ID})
}

// Event sends an event, stamped now; a nil value is no data.
func (c *Conn) Event(name string, data any) {
	now := time.Now()
	m := map[string]any{"event": name, "timestamp": map[string]int64{
		"seconds": now.Unix(), "microseconds": int64(now.Nanosecond()) / 1000,
	}}
	if data != nil {
		m["data"] = data
	}
	c.send(m)
}

// Handler makes the answer to a request; an error refuses it.
type Handler func(Request) (any, error)

// Serve answers requests by name until the client hangs up. A command without a handler is not found.
func (c *Conn) Serve(handlers map[string]Handler) {
	for {
		r, ok := c.Next()
		if !ok {
			return
		}
		handler := handlers[r.Command]
		if handler == nil {
			c.send(map[string]any{"id": r.ID, "error": map[string]string{
				"class": "CommandNotFound", "desc": "The command " + r.Command + " has not been found",
			}})
			continue
		}
		if value, err := handler(r); err != nil {
			c.Refuse(r, err.Error())
		} else {
			c.Return(r, value)
		}
	}
}

func (c *Conn) send(message any) {
	raw, err := json.Marshal(message)
	if err != nil {
		c.server.failf("cannot encode %v: %v", message, err)
	}
	c.Write(string(raw) + "\r\n")
}

// Write sends bytes as they are, in one write.
func (c *Conn) Write(raw string) {
	if _, err := c.socket.Write([]byte(raw)); err != nil {
		c.server.failf("cannot write: %v", err)
	}
}

// WaitHangUp waits until the client has hung up. What it sends until then is ignored.
func (c *Conn) WaitHangUp() {
	for {
		if _, ok := c.Next(); !ok {
			return
		}
	}
}
