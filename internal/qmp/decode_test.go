package qmp

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

func FuzzDecoder(f *testing.F) {
	f.Add([]byte(`{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "x"}, "capabilities": ["oob"]}}` + "\r\n"))
	f.Add([]byte(`{"return": {}, "id": 1}` + "\r\n" + `{"return": [], "id": 2}`))
	f.Add([]byte(`{"id": 3, "error": {"class": "GenericError", "desc": "no"}}`))
	f.Add([]byte(`{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "STOP"}`))
	f.Add([]byte(`{"timestamp": {"seconds": -1, "microseconds": -1}, "event": "MIGRATION", "data": {"status": "setup"}}`))
	f.Add([]byte(`{"return": null, "id": "x"}{"return"`))
	f.Add([]byte("{\n    \"return\": {\n    }\n}\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		whole := decodeAll(t, bytes.NewReader(raw))
		bytewise := decodeAll(t, iotest.OneByteReader(bytes.NewReader(raw)))
		if whole != bytewise {
			t.Errorf("as one read:\n%s\nbyte by byte:\n%s", whole, bytewise)
		}
	})
}

// decodeAll renders the messages of a stream up to its end or its first fault.
func decodeAll(t *testing.T, r io.Reader) string {
	var all strings.Builder
	for d := newDecoder(r); ; {
		m, err := d.next()
		if err != nil {
			if errors.Is(err, io.EOF) {
				all.WriteString("EOF")
			}
			return all.String()
		}
		kinds := 0
		for _, is := range []bool{m.Event != "", m.isReply(), m.QMP != nil} {
			if is {
				kinds++
			}
		}
		if kinds == 0 || m.received.IsZero() {
			t.Errorf("%+v is no message", m)
		}
		id, ok := m.id()
		raw, err := json.Marshal([]any{m.Event, m.Return, m.Error, m.QMP, id, ok, m.Data, m.Timestamp.time()})
		if err != nil && !strings.Contains(err.Error(), "year outside of range") {
			t.Errorf("%+v: %v", m, err)
		}
		all.Write(raw)
	}
}

// A peer that never ends its message costs a bounded amount of memory.
func TestDecoderBound(t *testing.T) {
	endless := io.MultiReader(strings.NewReader(`{"return": "`), endlessReader{})
	_, err := newDecoder(endless).next()
	if err == nil || !strings.Contains(err.Error(), "a message of more than") {
		t.Errorf("got %v", err)
	}
}

// What goes on to people is cut, whatever QEMU says.
func TestDecoderShortens(t *testing.T) {
	long := strings.Repeat("ä", maxWord)
	for name, c := range map[string]struct {
		sent string
		word func(*message) string
	}{
		"error":    {`{"error": {"class": "GenericError", "desc": "` + long + `"}}`, func(m *message) string { return m.Error.Desc }},
		"class":    {`{"error": {"class": "` + long + `", "desc": "x"}}`, func(m *message) string { return m.Error.Class }},
		"event":    {`{"event": "` + long + `"}`, func(m *message) string { return m.Event }},
		"greeting": {`{"QMP": {"version": {"package": "` + long + `"}}}`, func(m *message) string { return m.QMP.Version.Package }},
	} {
		m, err := newDecoder(strings.NewReader(c.sent)).next()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if word := c.word(m); len(word) > maxWord+len("…") || !strings.HasSuffix(word, "ä…") {
			t.Errorf("%s: %d bytes, ends with %q", name, len(word), word[len(word)-8:])
		}
	}
}

type endlessReader struct{}

func (endlessReader) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	return len(p), nil
}

func TestDecoderReadError(t *testing.T) {
	broken := errors.New("the wire is cut")
	_, err := newDecoder(io.MultiReader(strings.NewReader(`{"return`), iotest.ErrReader(broken))).next()
	if !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
}

func FuzzEncode(f *testing.F) {
	f.Add("getfd", `{"fdname":"x"}`, uint64(1))
	f.Add("a\"b\x00", `{}`, uint64(1<<63))
	f.Fuzz(func(t *testing.T, name, args string, id uint64) {
		if !json.Valid([]byte(args)) {
			return
		}
		raw, err := marshalArgs(name, json.RawMessage(args))
		if err != nil {
			return
		}
		var buf bytes.Buffer
		encode(&buf, name, raw, id)
		var got struct {
			Execute   string          `json:"execute"`
			Arguments json.RawMessage `json:"arguments"`
			ID        uint64          `json:"id"`
		}
		if err := json.Unmarshal(buf.Bytes(), &got); err != nil || got.ID != id || !bytes.Equal(got.Arguments, raw) {
			t.Errorf("%s does not read back: %v", buf.Bytes(), err)
		}
		if name == strings.ToValidUTF8(name, "") && got.Execute != name {
			t.Errorf("%s does not name %q", buf.Bytes(), name)
		}
	})
}

func TestTimeouts(t *testing.T) {
	for _, use := range Surface() {
		if d := timeoutOf(use.Command); d < 1e9 || d > 600e9 {
			t.Errorf("%s: %v", use.Command, d)
		}
	}
	if timeoutOf("qom-set") <= timeoutOf("query-status") {
		t.Error("qom-set may allocate memory and gets no longer than query-status")
	}
}
