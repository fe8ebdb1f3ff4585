package lab

import (
	"fmt"
	"io"
	"os"
	"sync"
	"testing"
	"time"

	"qlive/integration/guest/beats"
)

// Truth is what a guest has said on its console so far.
type Truth struct {
	mu     sync.Mutex
	parser beats.Parser
	last   []byte // the newest bytes, for messages
}

func newTruth() *Truth { return &Truth{} }

// read follows a console to its end.
func (t *Truth) read(r io.Reader) {
	buf := make([]byte, 32<<10)
	for {
		n, err := r.Read(buf)
		t.mu.Lock()
		t.parser.Feed(buf[:n], time.Now())
		t.last = append(t.last, buf[:n]...)
		t.last = t.last[max(0, len(t.last)-300):]
		t.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// Report is what the guest has said.
func (t *Truth) Report() beats.Report {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.parser.Report()
}

// Window is the gaps since it was last asked.
func (t *Truth) Window() beats.Gaps {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.parser.Window()
}

// Last is the newest that came, for messages.
func (t *Truth) Last() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.last)
}

// Said is what a guest has said so far on a console that is a file.
func Said(t testing.TB, console string) beats.Report {
	t.Helper()
	text, err := os.ReadFile(console)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	var p beats.Parser
	p.Feed(text, time.Time{})
	return p.Report()
}

// AwaitTruth waits until the guest on such a console has beaten n times more and has verified its memory once more, all of it after now, and fails the
// test if anything that it said is not as it should be.
func (l *Lab) AwaitTruth(t testing.TB, console string, n uint64) {
	t.Helper()
	before := Said(t, console)
	l.Eventually("the guest beats and has verified its memory", func() error {
		r := Said(t, console)
		if r.Beats < before.Beats+n || r.Mems <= before.Mems {
			return fmt.Errorf("%d of %d beats, %d verifications after %d", r.Beats, before.Beats+n, r.Mems, before.Mems)
		}
		return nil
	})
	if err := Said(t, console).Check(); err != nil {
		t.Fatal(err)
	}
}
