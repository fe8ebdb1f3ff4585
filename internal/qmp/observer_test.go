package qmp_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"qlive/internal/qmp"
	"qlive/internal/qmp/qmptest"
)

func TestObserverSeesEverything(t *testing.T) {
	seen := &recorder{}
	c := dial(t, func(m *qmptest.Conn) {
		m.Handshake()
		m.Event("STOP", nil)
		m.Serve(map[string]qmptest.Handler{
			"stop": func(qmptest.Request) (any, error) { return nil, nil },
			"cont": func(qmptest.Request) (any, error) { return nil, errors.New("no") },
		})
	}, seen)
	ctx := within(t, patience)
	if err := c.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	if err := c.Cont(ctx); err == nil {
		t.Fatal("cont was refused, and nobody told")
	}
	sent, replies, events := seen.snapshot()
	var names []string
	for i, q := range sent {
		names = append(names, q.Command)
		if q.ID != uint64(i+1) || replies[i].ID != q.ID || replies[i].Command != q.Command {
			t.Errorf("command %d: sent %+v, replied %+v", i, q, replies[i])
		}
		if q.Sent.IsZero() || replies[i].Received.Before(q.Sent) {
			t.Errorf("%s: sent %v, received %v", q.Command, q.Sent, replies[i].Received)
		}
	}
	if want := []string{"qmp_capabilities", "stop", "cont"}; !slices.Equal(names, want) || len(replies) != len(want) {
		t.Errorf("sent %v with %d replies, want %v", names, len(replies), want)
	}
	if text(sent[0].Arguments) != `{"enable":["oob"]}` || sent[1].Arguments != nil {
		t.Errorf("arguments %s, %s", sent[0].Arguments, sent[1].Arguments)
	}
	if text(replies[1].Return) != "{}" || replies[1].Err != nil || replies[2].Err == nil {
		t.Errorf("replies %+v", replies)
	}
	if len(events) != 1 || events[0].Name != qmp.EventStop {
		t.Errorf("events %+v", events)
	}
}

func TestTranscript(t *testing.T) {
	var out bytes.Buffer
	log := qmp.NewTranscript(&out)
	at := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	id := uint64(0)
	command := func(name, args, result string, err error) {
		id++
		at = at.Add(time.Second)
		q := qmp.Query{ID: id, Command: name, Sent: at}
		if args != "" {
			q.Arguments = json.RawMessage(args)
		}
		log.Sent(q)
		log.Replied(qmp.Reply{Query: q, Received: at.Add(1234 * time.Microsecond), Return: json.RawMessage(result), Err: err})
	}
	refused := &qmp.Error{Class: "GenericError", Desc: "not now"}
	command("migrate", `{"uri":"fd:channel"}`, `{}`, nil)
	command("stop", "", "", refused)
	command("query-status", "", `{"status": "running"}`, nil)
	command("query-status", "", "", fmt.Errorf("%w: QEMU hung up", qmp.ErrClosed))
	command("object-add", `{"qom-type":"secret","id":"s","data":"geheim"}`, "{}", nil)
	command("query-block", "", `["`+strings.Repeat("x", 5000)+`"]`, nil)
	log.Event(qmp.Event{Name: "MIGRATION", Data: json.RawMessage(`{"status": "setup"}`), QEMUTime: at, Received: at.Add(time.Millisecond)})
	log.Event(qmp.Event{Name: "STOP", QEMUTime: at, Received: at.Add(time.Millisecond)})
	log.Replied(qmp.Reply{Query: qmp.Query{ID: 99}, Received: at, Return: json.RawMessage(`{}`)})
	log.Replied(qmp.Reply{Query: qmp.Query{ID: 99}, Received: at, Err: refused})
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	log.Event(qmp.Event{Name: "AFTER_CLOSE", Received: at})
	golden(t, "transcript.txt", out.Bytes())
}

// A disk that hangs delays nobody, and what is left out is said.
func TestTranscriptOfASlowDisk(t *testing.T) {
	disk := &slowDisk{release: make(chan struct{})}
	log := qmp.NewTranscript(disk)
	big := json.RawMessage(strings.Repeat("x", 4000))
	const lines = 2000
	for range lines {
		log.Event(qmp.Event{Name: "BIG", Data: big})
	}
	close(disk.release)
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	written := bytes.Count(disk.out.Bytes(), []byte("EVENT"))
	if written == 0 || written == lines {
		t.Errorf("%d of %d lines written: the backlog has no bound", written, lines)
	}
	if want := fmt.Sprintf("(%d lines left out)", lines-written); !strings.Contains(disk.out.String(), want) {
		t.Errorf("the transcript does not say %q", want)
	}
}

type slowDisk struct {
	release chan struct{}
	out     bytes.Buffer
}

func (d *slowDisk) Write(p []byte) (int, error) {
	<-d.release
	return d.out.Write(p)
}

func TestTranscriptOfAFullDisk(t *testing.T) {
	log := qmp.NewTranscript(fullDisk{})
	log.Event(qmp.Event{Name: "ONE"})
	log.Event(qmp.Event{Name: "TWO"})
	if err := log.Close(); !errors.Is(err, errFull) || !strings.Contains(err.Error(), "cannot write the transcript") {
		t.Errorf("got %v", err)
	}
}

var errFull = errors.New("no space left on device")

type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, errFull }
