package flip

import (
	"cmp"
	"encoding/json"
	"slices"
	"sync"
	"time"
)

// Lanes of a trace: who was busy. In one lane spans lie within one another or apart: a viewer may drop what crosses another's end. The pause does, since it
// begins when stop has been sent and ends with the answer of cont; so it has its own.
const (
	laneHandoff = "handoff"
	lanePause   = "pause"
	laneSource  = "source"
	laneTarget  = "target"
)

// laneOf is the lane of one of the two QEMUs.
func laneOf(source bool) string {
	if source {
		return laneSource
	}
	return laneTarget
}

// A span is something that took time in a lane.
type span struct {
	lane, name string
	start, end time.Time
	mark       bool // an instant
	args       any  // what else is to be told of it, encoded as a JSON object; nil for nothing
}

// Trace collects where the time of a handoff went. It is safe for concurrent use; the zero value is ready.
type Trace struct {
	mu    sync.Mutex
	spans []span
}

// add records one span. It costs an append under a mutex, well below a microsecond.
func (t *Trace) add(lane, name string, start, end time.Time, err error) {
	s := span{lane: lane, name: name, start: start, end: end, mark: end.Equal(start)}
	if err != nil {
		s.args = map[string]string{"error": err.Error()}
	}
	t.append(s)
}

// mark records an instant, and the JSON object that came with it, if any did.
func (t *Trace) mark(lane, name string, at time.Time, data json.RawMessage) {
	s := span{lane: lane, name: name, start: at, end: at, mark: true}
	if data != nil {
		s.args = data
	}
	t.append(s)
}

func (t *Trace) append(s span) {
	t.mu.Lock()
	t.spans = append(t.spans, s)
	t.mu.Unlock()
}

// traceEvent is an entry of Chrome's trace format, which Perfetto opens: "X" is a complete event with a duration,
// "i" an instant, "M" names a lane. Times are microseconds.
type traceEvent struct {
	Name string   `json:"name"`
	Ph   string   `json:"ph"`
	PID  int      `json:"pid"`
	TID  int      `json:"tid"`
	TS   float64  `json:"ts"`
	Dur  *float64 `json:"dur,omitempty"`
	S    string   `json:"s,omitempty"`
	Args any      `json:"args,omitempty"`
}

// JSON is the trace in Chrome's trace format. Time zero is the start of the first span.
func (t *Trace) JSON(migration string) ([]byte, error) {
	t.mu.Lock()
	spans := append([]span(nil), t.spans...)
	t.mu.Unlock()

	lanes := []string{laneHandoff, lanePause, laneSource, laneTarget}
	events := []traceEvent{{Name: "process_name", Ph: "M", PID: 1, Args: map[string]string{"name": "qlive " + migration}}}
	for i, lane := range lanes {
		events = append(events, traceEvent{Name: "thread_name", Ph: "M", PID: 1, TID: i + 1, Args: map[string]string{"name": lane}})
	}
	var zero time.Time
	for _, s := range spans {
		if zero.IsZero() || s.start.Before(zero) {
			zero = s.start
		}
	}
	for _, s := range inTurn(spans) {
		e := traceEvent{Name: s.name, Ph: "X", PID: 1, TID: lane(lanes, s.lane), TS: micros(s.start.Sub(zero)), Args: s.args}
		if s.mark {
			e.Ph, e.S = "i", "t"
		} else {
			d := micros(s.end.Sub(s.start))
			e.Dur = &d
		}
		events = append(events, e)
	}
	return json.Marshal(struct {
		TraceEvents []traceEvent `json:"traceEvents"`
	}{events})
}

// inTurn lets a command begin when QEMU, which takes one after the other, has answered the one before: two may be under way at once. It sorts by
// start; of what starts at once the longest comes first, since a viewer lays the next one into it.
func inTurn(spans []span) []span {
	slices.SortStableFunc(spans, func(a, b span) int { return a.end.Compare(b.end) })
	answered := map[string]time.Time{}
	for i, s := range spans {
		if s.mark || s.lane != laneSource && s.lane != laneTarget {
			continue
		}
		if before := answered[s.lane]; s.start.Before(before) {
			spans[i].start = before
		}
		answered[s.lane] = s.end
	}
	slices.SortStableFunc(spans, func(a, b span) int { return cmp.Or(a.start.Compare(b.start), b.end.Compare(a.end)) })
	return spans
}

func lane(lanes []string, name string) int {
	for i, l := range lanes {
		if l == name {
			return i + 1
		}
	}
	return 0
}

func micros(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }
