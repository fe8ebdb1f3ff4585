package qmp

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// A QEMU may be hostile: its guest may have taken it over. So there is a bound, in bytes, to all that is kept of it.
const (
	maxMessage = 8 << 20 // of one message; the largest known, the schema, has 0.2 MB
	maxWord    = 4 << 10 // of a text that goes on to people, and so into logs, journals and events
)

// A message is anything that QEMU sends: a greeting, a reply, an error or an event, told apart by its members.
type message struct {
	QMP       *greeting       `json:"QMP"`
	Return    json.RawMessage `json:"return"`
	Error     *Error          `json:"error"`
	ID        json.RawMessage `json:"id"`
	Event     string          `json:"event"`
	Data      json.RawMessage `json:"data"`
	Timestamp timestamp       `json:"timestamp"`

	received time.Time
}

type greeting struct {
	Version      versionInfo `json:"version"`
	Capabilities []string    `json:"capabilities"`
}

type versionInfo struct {
	QEMU struct {
		Major int `json:"major"`
		Minor int `json:"minor"`
		Micro int `json:"micro"`
	} `json:"qemu"`
	Package string `json:"package"`
}

type timestamp struct {
	Seconds      int64 `json:"seconds"` // -1 if QEMU could not read the clock
	Microseconds int64 `json:"microseconds"`
}

func (t timestamp) time() time.Time {
	if t.Seconds <= 0 {
		return time.Time{}
	}
	return time.Unix(t.Seconds, t.Microseconds*int64(time.Microsecond))
}

// id is the number that a reply carries; false if it carries none, or none of ours.
func (m *message) id() (uint64, bool) {
	id, err := strconv.ParseUint(string(m.ID), 10, 64)
	return id, err == nil
}

// isReply tells a reply from everything else.
func (m *message) isReply() bool { return m.Error != nil || m.Return != nil }

// shorten cuts what goes on to people.
func (m *message) shorten() {
	m.Event = shortened(m.Event)
	if m.Error != nil {
		m.Error.Class, m.Error.Desc = shortened(m.Error.Class), shortened(m.Error.Desc)
	}
	if m.QMP != nil {
		m.QMP.Version.Package = shortened(m.QMP.Version.Package)
	}
}

func shortened(s string) string {
	if len(s) <= maxWord {
		return s
	}
	return strings.ToValidUTF8(s[:maxWord], "") + "…"
}

// A decoder takes messages off a stream, however the stream is cut into reads, one line a message or pretty-printed.
type decoder struct {
	source *source
	json   *json.Decoder
}

func newDecoder(r io.Reader) *decoder {
	s := &source{r: r}
	return &decoder{source: s, json: json.NewDecoder(s)}
}

// next waits for a message. An error is final. io.EOF means that the stream ended between two messages.
func (d *decoder) next() (*message, error) {
	d.source.left = maxMessage
	var m message
	if err := d.json.Decode(&m); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || d.source.err != nil {
			return nil, err
		}
		return nil, fmt.Errorf("cannot follow the monitor: not QMP: %w", err)
	}
	if m.QMP == nil && m.Event == "" && !m.isReply() {
		return nil, errors.New("cannot follow the monitor: a message that is neither reply, error nor event")
	}
	m.shorten()
	m.received = d.source.last
	return &m, nil
}

// source is the stream below a decoder: it notes when data last arrived and bounds what one message may take.
type source struct {
	r    io.Reader
	last time.Time
	left int
	err  error
}

func (s *source) Read(p []byte) (int, error) {
	if s.left <= 0 {
		s.err = fmt.Errorf("cannot follow the monitor: a message of more than %d bytes", maxMessage)
		return 0, s.err
	}
	n, err := s.r.Read(p[:min(len(p), s.left)])
	s.last = time.Now()
	s.left -= n
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}

// encode writes a command as short as can be: QEMU takes some 3 µs to read each byte of it.
func encode(buf *bytes.Buffer, name string, args json.RawMessage, id uint64) {
	buf.WriteString(`{"execute":`)
	quoted, _ := json.Marshal(name) // cannot fail: it is a string
	buf.Write(quoted)
	if args != nil {
		buf.WriteString(`,"arguments":`)
		buf.Write(args)
	}
	buf.WriteString(`,"id":`)
	buf.WriteString(strconv.FormatUint(id, 10))
	buf.WriteByte('}')
}

// marshalArgs renders the arguments of a command; nil for none. They must make a JSON object.
func marshalArgs(name string, args any) (json.RawMessage, error) {
	if args == nil {
		return nil, nil
	}
	var buf bytes.Buffer
	e := json.NewEncoder(&buf)
	e.SetEscapeHTML(false)
	if err := e.Encode(args); err != nil {
		return nil, fmt.Errorf("cannot encode the arguments of %s: %w", name, err)
	}
	raw := bytes.TrimSpace(buf.Bytes())
	switch {
	case string(raw) == "null", string(raw) == "{}":
		return nil, nil
	case raw[0] != '{':
		return nil, fmt.Errorf("cannot encode the arguments of %s: they make no JSON object", name)
	}
	return raw, nil
}
