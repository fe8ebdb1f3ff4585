package lab

import (
	"io"
	"sync"
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
