package restapi_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"qlive/restapi"
	"qlive/restapi/restapitest"
	"qlive/vmstate"
)

// message is one server-sent event, or a comment.
type message struct {
	id, event, comment string
	data               vmstate.Event
}

// listener follows the events.
type listener struct {
	t    *testing.T
	body io.ReadCloser
	scan *bufio.Scanner
}

func (s *server) listen(query string, headers ...string) *listener {
	s.t.Helper()
	r, err := http.NewRequestWithContext(s.t.Context(), "GET", "http://qlive/events"+query, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Set(name, value)
	}
	resp, err := s.http.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "text/event-stream" {
		s.t.Fatalf("events: %s, %s", resp.Status, resp.Header.Get("Content-Type"))
	}
	l := &listener{t: s.t, body: resp.Body, scan: bufio.NewScanner(resp.Body)}
	l.scan.Buffer(nil, 1<<20)
	s.t.Cleanup(func() { resp.Body.Close() })
	return l
}

// next is the next event or comment; false at the end of the stream.
func (l *listener) next() (message, bool) {
	l.t.Helper()
	var m message
	for l.scan.Scan() {
		line := l.scan.Text()
		if line == "" {
			return m, true
		}
		name, value, _ := strings.Cut(line, ": ")
		switch name {
		case "id":
			m.id = value
		case "event":
			m.event = value
		case "data":
			if err := json.Unmarshal([]byte(value), &m.data); err != nil {
				l.t.Errorf("data is no event: %v: %s", err, value)
			}
		case "":
			m.comment = value
		default:
			l.t.Errorf("unknown line %q", line)
		}
	}
	return m, false
}

// event is the next event.
func (l *listener) event() message {
	l.t.Helper()
	for {
		m, ok := l.next()
		if !ok {
			l.t.Fatalf("the stream ended: %v", l.scan.Err())
		}
		if m.event != "" {
			return m
		}
	}
}

func TestEvents(t *testing.T) {
	svc := restapitest.New(restapitest.VM("vm1"))
	s := start(t, svc, restapi.Options{})
	l := s.listen("")
	first := l.event()
	if first.event != "reset" || first.id != "1" || first.data.Seq != 1 {
		t.Fatalf("first event %+v", first)
	}
	state, ok := first.data.Data.(map[string]any)
	if !ok || len(state["vms"].([]any)) != 1 || len(state["migrations"].([]any)) != 0 {
		t.Errorf("state %v", first.data.Data)
	}
	s.do("POST", "/vms/vm1/pause", "").want(200)
	if m := l.event(); m.event != "vm" || m.id != "2" || m.data.VM != "vm1" || m.data.Data.(map[string]any)["status"] != "paused" {
		t.Errorf("event %+v", m)
	}
	s.do("POST", "/migrations", `{"vm":"vm1"}`).want(202)
	l.event()
	if m := l.event(); m.event != "migration" || m.data.Migration != "mig-1" || m.data.Data.(map[string]any)["regions"] == nil {
		t.Errorf("event %+v", m)
	}
	s.do("DELETE", "/vms/vm1?force=1", "").want(204)
	if m := l.event(); m.event != "vm" || !m.data.Deleted {
		t.Errorf("event %+v", m)
	}
	svc.SetHealth(vmstate.Health{Degraded: true})
	if m := l.event(); m.event != "health" {
		t.Errorf("event %+v", m)
	}
}

func TestEventsResume(t *testing.T) {
	svc := restapitest.New(restapitest.VM("vm1"))
	s := start(t, svc, restapi.Options{})
	for range 10 {
		svc.SetVM(restapitest.VM("vm1"))
	}
	for _, l := range []*listener{s.listen("", "Last-Event-ID: 5"), s.listen("?after=5")} {
		for want := 6; want <= 11; want++ {
			if m := l.event(); m.event != "vm" || m.id != fmt.Sprint(want) {
				t.Fatalf("event %+v, want number %d", m, want)
			}
		}
	}
	t.Run("up to date", func(t *testing.T) {
		l := s.listen("", "Last-Event-ID: 11")
		svc.SetHealth(vmstate.Health{Ready: true})
		if m := l.event(); m.id != "12" || m.event != "health" {
			t.Errorf("event %+v", m)
		}
	})
	t.Run("no longer there", func(t *testing.T) {
		for range 200 {
			svc.SetVM(restapitest.VM("vm1"))
		}
		if m := s.listen("", "Last-Event-ID: 5").event(); m.event != "reset" || m.id != "212" {
			t.Errorf("event %+v", m)
		}
	})
	t.Run("of another life", func(t *testing.T) {
		if m := s.listen("", "Last-Event-ID: 999999").event(); m.event != "reset" {
			t.Errorf("event %+v", m)
		}
	})
}

func TestEventsOfOneVM(t *testing.T) {
	svc := restapitest.New(restapitest.VM("a"), restapitest.VM("b"))
	s := start(t, svc, restapi.Options{})
	l := s.listen("?vm=b")
	if state := l.event().data.Data.(map[string]any); len(state["vms"].([]any)) != 1 {
		t.Errorf("state %v", state)
	}
	svc.SetVM(restapitest.VM("a"))
	svc.SetVM(restapitest.VM("b"))
	if m := l.event(); m.data.VM != "b" {
		t.Errorf("event %+v", m)
	}
}

func TestEventsHeartbeat(t *testing.T) {
	s := start(t, restapitest.New(), restapi.Options{Heartbeat: 5 * time.Millisecond})
	l := s.listen("")
	for alive := 0; alive < 3; {
		m, ok := l.next()
		if !ok {
			t.Fatal("the stream ended")
		}
		if m.comment == "alive" {
			alive++
		}
	}
}

func TestEventsEndWithTheServer(t *testing.T) {
	s := start(t, restapitest.New(), restapi.Options{})
	l := s.listen("")
	l.event()
	s.stop()
	if m, ok := l.next(); ok {
		t.Errorf("another message: %+v", m)
	}
	if err := l.scan.Err(); err != nil {
		t.Errorf("the stream broke off: %v", err)
	}
}

func TestEventsClosedByTheService(t *testing.T) {
	svc := restapitest.New()
	s := start(t, svc, restapi.Options{})
	l := s.listen("")
	l.event()
	// More at once than the service keeps for a listener: the last is lost, without an id to come back with.
	for range 100_000 {
		svc.SetHealth(vmstate.Health{})
		if svc.Streams() == 0 {
			break
		}
	}
	var last message
	for {
		m, ok := l.next()
		if !ok {
			break
		}
		last = m
	}
	if last.event != "lost" || last.id != "" {
		t.Errorf("the last is %+v", last)
	}
}

// A client that reads nothing is closed, and nobody else notices it.
func TestSlowClient(t *testing.T) {
	svc := restapitest.New(restapitest.VM("vm1"))
	s := start(t, svc, restapi.Options{WriteTimeout: 50 * time.Millisecond})
	conn, err := net.Dial("unix", s.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := fmt.Fprint(conn, "GET /events HTTP/1.1\r\nHost: qlive\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		if svc.Streams() != 1 {
			return fmt.Errorf("%d streams, want one", svc.Streams())
		}
		return nil
	})
	eventually(t, func() error {
		svc.SetVM(restapitest.VM("vm1"))
		if svc.Streams() != 0 {
			return fmt.Errorf("the slow client still has its stream")
		}
		return nil
	})
	if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, conn); err != nil {
		t.Errorf("the connection was not closed: %v", err)
	}
}

func TestManyAtOnce(t *testing.T) {
	svc := restapitest.New(restapitest.VM("vm1"), restapitest.VM("vm2"))
	svc.Run(time.Millisecond, restapitest.Full()...)
	s := start(t, svc, restapi.Options{})
	var wg sync.WaitGroup
	get := func(path string) {
		resp, err := s.http.Get("http://qlive" + path)
		if err != nil {
			t.Error(err)
			return
		}
		defer resp.Body.Close()
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			t.Error(err)
		}
		if resp.StatusCode != 200 {
			t.Errorf("%s: %s", path, resp.Status)
		}
	}
	for range 8 {
		wg.Go(func() {
			for range 20 {
				get("/vms")
				get("/vms/vm1/regions/ram0")
				get("/migrations?limit=5")
				get("/readyz")
			}
		})
		wg.Go(func() {
			l := s.listen("")
			for range 10 {
				l.event()
			}
			l.body.Close()
		})
	}
	for _, vm := range []string{"vm1", "vm2"} {
		wg.Go(func() {
			for range 5 {
				resp, err := s.http.Post("http://qlive/migrations?wait=1m", "application/json", strings.NewReader(`{"vm":"`+vm+`"}`))
				if err != nil {
					t.Error(err)
					return
				}
				resp.Body.Close()
				if resp.StatusCode != 200 {
					t.Errorf("migration of %s: %s", vm, resp.Status)
				}
			}
		})
	}
	wg.Wait()
}
