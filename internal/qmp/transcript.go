package qmp

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"
)

// Bounds of a transcript, in bytes.
const (
	maxExcerpt = 4 << 10 // of one message; the schema has 200 kB
	maxBacklog = 4 << 20 // that wait for a slow writer
)

// writeDelay lets lines gather before they are written: writing takes a processor, and a guest may be standing meanwhile.
const writeDelay = 20 * time.Millisecond

// Transcript is an Observer that writes down what passes over a connection, a line each:
//
//	2026-11-23T03:39:00.123456Z QUERY 12 migrate {"uri":"fd:channel"}
//	2026-11-23T03:39:00.124010Z REPLY 12 migrate 554µs {}
//	2026-11-23T03:39:00.124980Z REPLY 13 stop 970µs error: not now
//	2026-11-23T03:39:00.125012Z EVENT STOP qemu=03:39:00.125003
//
// Commands that are asked all the time are written only where they fail, and arguments that may hold secrets never. The
// writer is used by a goroutine of the transcript's own, so that a slow disk delays no command; what it cannot keep up
// with is left out, and a line says how much.
type Transcript struct {
	mu      sync.Mutex
	backlog bytes.Buffer
	lost    int // lines left out since the last one kept
	closed  bool
	wake    chan struct{} // holds a token after any change
	closing chan struct{} // closed by Close

	done chan struct{} // closed when the writing goroutine has ended
	err  error         // of the writer; read after done
}

// NewTranscript writes to w until Close.
func NewTranscript(w io.Writer) *Transcript {
	t := &Transcript{wake: make(chan struct{}, 1), closing: make(chan struct{}), done: make(chan struct{})}
	go t.write(w)
	return t
}

// Close writes what is still to be written and gives the first error of the writer. What is observed afterwards is
// ignored. The writer stays open.
func (t *Transcript) Close() error {
	t.mu.Lock()
	if !t.closed {
		t.closed = true
		close(t.closing)
	}
	t.mu.Unlock()
	t.signal()
	<-t.done
	return t.err
}

// Sent implements Observer.
func (t *Transcript) Sent(q Query) {
	if noisy(q.Command) {
		return
	}
	args := q.Arguments
	if secret(q.Command) {
		args = json.RawMessage("(not shown)")
	}
	t.line(q.Sent, "QUERY %d %s %s", q.ID, q.Command, excerpt(args))
}

// Replied implements Observer.
func (t *Transcript) Replied(r Reply) {
	switch took := r.Received.Sub(r.Sent).Round(time.Microsecond); {
	case r.Command == "" && r.Err == nil:
		t.line(r.Received, "REPLY %d to no command %s", r.ID, excerpt(r.Return))
	case r.Command == "":
		t.line(r.Received, "REPLY %d to no command error: %v", r.ID, r.Err)
	case r.Err != nil:
		t.line(r.Received, "REPLY %d %s %v error: %v", r.ID, r.Command, took, r.Err)
	case !noisy(r.Command):
		t.line(r.Received, "REPLY %d %s %v %s", r.ID, r.Command, took, excerpt(r.Return))
	}
}

// Event implements Observer.
func (t *Transcript) Event(e Event) {
	t.line(e.Received, "EVENT %s qemu=%s %s", e.Name, e.QEMUTime.UTC().Format("15:04:05.000000"), excerpt(e.Data))
}

// noisy commands would bury the others.
func noisy(command string) bool {
	return slices.Contains([]string{"query-status", "query-migrate", "query-qmp-schema"}, command)
}

// secret commands may carry passwords or keys.
func secret(command string) bool {
	return slices.Contains([]string{"object-add", "set_password", "change-vnc-password", "human-monitor-command"}, command)
}

func excerpt(raw []byte) []byte {
	if len(raw) <= maxExcerpt {
		return raw
	}
	return fmt.Appendf(slices.Clone(raw[:maxExcerpt]), "… (%d bytes)", len(raw))
}

func (t *Transcript) line(at time.Time, format string, args ...any) {
	text := fmt.Appendf(at.UTC().AppendFormat(nil, "2006-01-02T15:04:05.000000Z "), format, args...)
	text = append(bytes.TrimRight(text, " "), '\n')
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.closed:
		return
	case t.backlog.Len()+len(text) > maxBacklog:
		t.lost++
		return
	case t.lost > 0:
		fmt.Fprintf(&t.backlog, "(%d lines left out)\n", t.lost)
		t.lost = 0
	}
	t.backlog.Write(text)
	t.signal()
}

func (t *Transcript) signal() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// write is the writing goroutine. After an error it goes on taking lines, and drops them.
func (t *Transcript) write(w io.Writer) {
	defer close(t.done)
	for {
		<-t.wake
		select {
		case <-time.After(writeDelay):
		case <-t.closing:
		}
		t.mu.Lock()
		chunk := bytes.Clone(t.backlog.Bytes())
		t.backlog.Reset()
		if t.closed && t.lost > 0 {
			chunk = fmt.Appendf(chunk, "(%d lines left out)\n", t.lost)
		}
		closed := t.closed
		t.mu.Unlock()
		if t.err == nil && len(chunk) > 0 {
			if _, err := w.Write(chunk); err != nil {
				t.err = fmt.Errorf("cannot write the transcript: %w", err)
			}
		}
		if closed {
			return
		}
	}
}
