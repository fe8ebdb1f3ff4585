package flip

import (
	"encoding/json"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// traceFile is Chrome's trace format as far as a trace uses it; unknown members are faults.
type traceFile struct {
	TraceEvents []traceEvent `json:"traceEvents"`
}

func TestTraceJSON(t *testing.T) {
	zero := time.Unix(1000, 0)
	at := func(us int) time.Time { return zero.Add(time.Duration(us) * time.Microsecond) }
	var trace Trace
	trace.add(laneHandoff, "plan", at(50), at(80), nil)
	trace.add(laneSource, "query-status", at(0), at(20), nil) // the first, though it was added later
	trace.mark(laneTarget, "RESUME", at(90), nil)
	trace.mark(laneTarget, "MIGRATION", at(90), json.RawMessage(`{"status": "completed"}`))
	trace.add(laneHandoff, "look", at(81), at(82), nil)
	trace.add(laneHandoff, "switch", at(81), at(83), errors.New("no")) // around what begins with it
	trace.add(laneSource, "stop", at(100), at(130), nil)               // QEMU executes them one after the other
	trace.add(laneSource, "save", at(100), at(150), nil)
	trace.add(laneSource, "query-status", at(120), at(170), nil)

	text, err := trace.JSON("mig-1")
	if err != nil {
		t.Fatal(err)
	}
	var file traceFile
	if err := json.Unmarshal(text, &file); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	dur := func(us float64) *float64 { return &us }
	named := func(name string) map[string]any { return map[string]any{"name": name} }
	want := traceFile{TraceEvents: []traceEvent{
		{Name: "process_name", Ph: "M", PID: 1, Args: named("qlive mig-1")},
		{Name: "thread_name", Ph: "M", PID: 1, TID: 1, Args: named("handoff")},
		{Name: "thread_name", Ph: "M", PID: 1, TID: 2, Args: named("pause")},
		{Name: "thread_name", Ph: "M", PID: 1, TID: 3, Args: named("source")},
		{Name: "thread_name", Ph: "M", PID: 1, TID: 4, Args: named("target")},
		{Name: "query-status", Ph: "X", PID: 1, TID: 3, TS: 0, Dur: dur(20)},
		{Name: "plan", Ph: "X", PID: 1, TID: 1, TS: 50, Dur: dur(30)},
		{Name: "switch", Ph: "X", PID: 1, TID: 1, TS: 81, Dur: dur(2), Args: map[string]any{"error": "no"}},
		{Name: "look", Ph: "X", PID: 1, TID: 1, TS: 81, Dur: dur(1)},
		{Name: "RESUME", Ph: "i", PID: 1, TID: 4, TS: 90, S: "t"},
		{Name: "MIGRATION", Ph: "i", PID: 1, TID: 4, TS: 90, S: "t", Args: map[string]any{"status": "completed"}},
		{Name: "stop", Ph: "X", PID: 1, TID: 3, TS: 100, Dur: dur(30)},
		{Name: "save", Ph: "X", PID: 1, TID: 3, TS: 130, Dur: dur(20)},
		{Name: "query-status", Ph: "X", PID: 1, TID: 3, TS: 150, Dur: dur(20)},
	}}
	if diff := cmp.Diff(want, file); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestTraceOfNothing(t *testing.T) {
	text, err := new(Trace).JSON("mig-1")
	var file traceFile
	if err == nil {
		err = json.Unmarshal(text, &file)
	}
	if err != nil || len(file.TraceEvents) != 5 {
		t.Errorf("%s, %v: want the names of a process and four lanes", text, err)
	}
}

func TestTraceConcurrently(t *testing.T) {
	var trace Trace
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 100 {
				trace.mark(laneSource, "STOP", time.Now(), nil)
				if _, err := trace.JSON("mig-1"); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	text, err := trace.JSON("mig-1")
	var file traceFile
	if err == nil {
		err = json.Unmarshal(text, &file)
	}
	if err != nil || len(file.TraceEvents) != 5+800 {
		t.Errorf("%d events (%v), want 805", len(file.TraceEvents), err)
	}
}
