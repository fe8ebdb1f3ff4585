package faces_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"qlive/integration/env"
	"qlive/vmstate"
)

// sent is an event as it was sent.
type sent struct {
	id   uint64
	name string
	data struct {
		Seq       uint64
		Type      vmstate.EventType
		VM        string
		Migration string
		Data      json.RawMessage
	}
}

// listener is a client that reads server-sent events by hand.
type listener struct {
	resp   *http.Response
	reader *bufio.Reader
	cancel context.CancelFunc
}

func (s *scene) listen(t *testing.T, path, lastID string) *listener {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, "GET", "http://qlive"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if lastID != "" {
		req.Header.Set("Last-Event-ID", lastID)
	}
	resp, err := s.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatalf("the answer is %s, %q", resp.Status, resp.Header.Get("Content-Type"))
	}
	l := &listener{resp, bufio.NewReaderSize(resp.Body, 1<<20), cancel}
	t.Cleanup(l.leave)
	return l
}

func (l *listener) leave() {
	l.cancel()
	l.resp.Body.Close()
}

// next reads an event.
func (l *listener) next(t *testing.T) (e sent) {
	t.Helper()
	for {
		line, err := l.reader.ReadString('\n')
		if err != nil {
			t.Fatalf("after %+v: %v", e, err)
		}
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		switch name {
		case "id":
			if e.id, err = strconv.ParseUint(value, 10, 64); err != nil {
				t.Fatal(err)
			}
		case "event":
			e.name = value
		case "data":
			if err := json.Unmarshal([]byte(value), &e.data); err != nil {
				t.Fatalf("%v in %.200s", err, value)
			}
		case "":
			if e.name != "" {
				return e
			}
		}
	}
}

// A listener that comes back with the number of the last event that it has seen gets what it missed, a whole handoff here, and nothing twice.
func TestEventsResume(t *testing.T) {
	s := newScene(t)
	l := s.listen(t, "/events", "")
	first := l.next(t)
	var state vmstate.State
	if err := json.Unmarshal(first.data.Data, &state); err != nil || first.name != "reset" || len(state.VMs) != 1 || state.VMs[0].Name != "vm1" || first.id != first.data.Seq {
		t.Fatalf("the first event is %+v, %v", first, err)
	}
	l.leave()

	m := s.vm.HandOver(env.Newest, "")
	l = s.listen(t, "/events", fmt.Sprint(first.id))
	var phases []vmstate.Phase
	var completed uint64
	last := first.id
	for completed == 0 {
		e := l.next(t)
		if e.id != last+1 || e.name != string(e.data.Type) {
			t.Fatalf("event %d %s follows %d", e.id, e.name, last)
		}
		last = e.id
		if e.data.Type != vmstate.EventMigration {
			continue
		}
		var told vmstate.Migration
		if err := json.Unmarshal(e.data.Data, &told); err != nil || told.ID != m.ID {
			t.Fatalf("%v in %s", err, e.data.Data)
		}
		if len(phases) == 0 || phases[len(phases)-1] != told.Phase {
			phases = append(phases, told.Phase)
		}
		if told.Phase.Ended() {
			completed = e.id
		}
	}
	if want := []vmstate.Phase{"planned", "preparing", "prepared", "switching", "committed", "draining", "completed"}; fmt.Sprint(phases) != fmt.Sprint(want) {
		t.Errorf("the phases are %v, want %v", phases, want)
	}
	l.leave()

	// From the middle of the handoff, by the query, of one VM, under /v1.
	l = s.listen(t, fmt.Sprintf("/v1/events?vm=vm1&after=%d", completed-2), "")
	if e := l.next(t); e.id != completed-1 {
		t.Errorf("after event %d comes %d", completed-2, e.id)
	}
	l.leave()
	l = s.listen(t, "/events?vm=vm2", fmt.Sprint(first.id)) // of another VM there is nothing to miss
	s.vm.HandOver(env.Installed, "")
	l.leave()

	// A number of another life gets the whole state.
	l = s.listen(t, "/events", "1000000000")
	if e := l.next(t); e.name != "reset" {
		t.Errorf("a number from the future gets %+v", e)
	}
}
