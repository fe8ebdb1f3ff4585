package client

import (
	"bufio"
	"strings"
	"testing"

	"qlive/vmstate"
)

func TestNextData(t *testing.T) {
	for _, c := range []struct{ name, stream, data string }{
		{"an event", "id: 1\nevent: vm\ndata: {}\n\n", "{}"},
		{"comments before", ": qlive\n\n: alive\n\ndata: {}\n\n", "{}"},
		{"two lines", "data: {\ndata: }\n\n", "{}"},
		{"no space", "data:{}\n\n", "{}"},
		{"carriage returns", "data: {}\r\n\r\n", "{}"},
		{"broken off", "data: {}\n", ""},
		{"broken off in a line", "data: {", ""},
		{"long", "data: " + strings.Repeat("x", 100_000) + "\n\n", strings.Repeat("x", 100_000)},
	} {
		t.Run(c.name, func(t *testing.T) {
			data, err := nextData(bufio.NewReader(strings.NewReader(c.stream)))
			if string(data) != c.data || (err != nil) != (c.data == "") {
				t.Errorf("%.50q, %v; want %.50q", data, err, c.data)
			}
		})
	}
}

func FuzzEvents(f *testing.F) {
	f.Add([]byte("id: 1\nevent: vm\ndata: {\"seq\":1,\"type\":\"vm\",\"data\":{\"name\":\"a\"}}\n\n"))
	f.Add([]byte("data: {\"type\":\"reset\",\"data\":{\"vms\":[{}]}}\n\ndata: {\"type\":\"lost\"}\n\n"))
	f.Add([]byte("data: {\"type\":\"region\",\"data\":7}\n\n"))
	f.Add([]byte(":\n\n\ndata\n\ndata:\n\n"))
	f.Fuzz(func(t *testing.T, stream []byte) {
		w := Watch{}
		n := 0
		_, _ = New("").readEvents(strings.NewReader(string(stream)), &w, func(_ vmstate.Event, _ error) bool { n++; return true })
		if n > len(stream) {
			t.Errorf("%d events from %d bytes", n, len(stream))
		}
	})
}
