package start_test

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"qlive/integration/env"
	"qlive/integration/lab"
	"qlive/vmstate"
)

// What a handoff took is told consistently: by itself, by its phases, by QEMU's own clock, and in its trace, which has every step and every
// command to either QEMU.
func TestTime(t *testing.T) {
	l := lab.New(t, lab.Options{})
	vm := l.Boot(lab.Spec{Guest: small()})
	for i, way := range vmstate.Ways() {
		t.Run(string(way), func(t *testing.T) {
			m := vm.HandOver([]string{env.Newest, env.Installed, env.Newest}[i], way)
			checkTimes(t, m)
			text, err := l.Client.Trace(t.Context(), m.ID)
			if err != nil {
				t.Fatal(err)
			}
			tr := readTrace(t, text)
			tr.check(t, m)
			tr.compare(t, l, "source", i, m)
			tr.compare(t, l, "target", i+1, m)
			for name, want := range map[string]int64{"pause_us": *m.PauseUS, "qemu_pause_us": *m.QEMUPause, "total_us": m.TotalUS} {
				if got := l.Cat("migrations", m.ID, name); got != fmt.Sprint(want) {
					t.Errorf("the tree says %s is %s, REST %d", name, got, want)
				}
			}
		})
	}
}

// A guest that stands has no pause.
func TestTimeOfAPausedGuest(t *testing.T) {
	l := lab.New(t, lab.Options{})
	vm := begin(t, l, vmstate.VMSpec{Args: machineArgs("-m", "64", "-S")})
	m := handOver(t, l, vmstate.MigrationSpec{VM: vm.Name, Binary: l.Env.QEMU(env.Newest)})
	if m.PauseUS != nil || m.QEMUPause != nil || l.Cat("vm1/migration/pause_us") != "none" {
		t.Errorf("a guest that never ran paused for %v, %v", m.PauseUS, m.QEMUPause)
	}
}

// slack is what two clocks, or the publishing between two readings of one, may differ by.
const slack = 2 * time.Millisecond

func us(n int64) time.Duration { return time.Duration(n) * time.Microsecond }

func checkTimes(t *testing.T, m vmstate.Migration) {
	t.Helper()
	if m.PauseUS == nil || m.QEMUPause == nil || m.EndedAt == nil {
		t.Fatalf("a time is missing: %+v", m)
	}
	if *m.QEMUPause <= 0 || us(*m.QEMUPause) > us(*m.PauseUS)+slack {
		t.Errorf("QEMU's own pause is %d µs, the whole %d", *m.QEMUPause, *m.PauseUS)
	}
	var sum, switching time.Duration
	for i, p := range m.Phases {
		if i > 0 && (p.At.Before(m.Phases[i-1].At) || m.Phases[i-1].At.Add(us(m.Phases[i-1].US)).Sub(p.At).Abs() > slack) {
			t.Errorf("%s took %d µs, and %s begins %v after it did", m.Phases[i-1].Phase, m.Phases[i-1].US, p.Phase, p.At.Sub(m.Phases[i-1].At))
		}
		sum += us(p.US)
		if p.Phase == vmstate.Switching || p.Phase == vmstate.Committing {
			switching += us(p.US)
		}
	}
	if (sum-us(m.TotalUS)).Abs() > slack || (m.EndedAt.Sub(m.StartedAt)-us(m.TotalUS)).Abs() > slack {
		t.Errorf("the phases took %v, the whole %d µs, from %v to %v", sum, m.TotalUS, m.StartedAt, *m.EndedAt)
	}
	// The reply of cont comes before RESUME has been read, which ends committing.
	if us(*m.PauseUS) > switching+slack {
		t.Errorf("the pause of %d µs is longer than switching and committing, %v", *m.PauseUS, switching)
	}
}

// traceEvent is an entry of Chrome's trace format: what is here is what a trace may have.
type traceEvent struct {
	Name string         `json:"name"`
	Ph   string         `json:"ph"`
	PID  int            `json:"pid"`
	TID  int            `json:"tid"`
	TS   float64        `json:"ts"`
	Dur  *float64       `json:"dur"`
	S    string         `json:"s"`
	Args map[string]any `json:"args"`
}

// traced is a trace by its lanes.
type traced struct {
	spans    map[string][]traceEvent
	instants map[string][]string // by name, and status if they have one
}

// readTrace reads a trace strictly, as the format's description has it: complete events have a duration, instants a scope, metadata names
// lanes, and nothing lies outside of a lane that has a name.
func readTrace(t *testing.T, text []byte) traced {
	t.Helper()
	var file struct {
		TraceEvents []traceEvent `json:"traceEvents"`
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&file); err != nil {
		t.Fatalf("%v in %.300s", err, text)
	}
	tr := traced{spans: map[string][]traceEvent{}, instants: map[string][]string{}}
	lanes := map[int]string{}
	for _, e := range file.TraceEvents {
		lane, named := lanes[e.TID]
		switch {
		case e.Name == "" || e.PID != 1 || e.TS < 0:
			t.Errorf("no event: %+v", e)
		case e.Ph == "M" && e.Name == "thread_name":
			lanes[e.TID] = e.arg("name")
		case e.Ph == "M" && e.Name == "process_name" && strings.HasPrefix(e.arg("name"), "qlive mig-"):
		case !named:
			t.Errorf("in no lane: %+v", e)
		case e.Ph == "X" && e.Dur != nil && *e.Dur >= 0:
			tr.spans[lane] = append(tr.spans[lane], e)
		case e.Ph == "i" && e.S == "t" && e.Dur == nil:
			tr.instants[lane] = append(tr.instants[lane], strings.TrimSpace(e.Name+" "+e.arg("status")))
		default:
			t.Errorf("no event: %+v", e)
		}
	}
	if got := slices.Sorted(maps.Values(lanes)); !slices.Equal(got, []string{"handoff", "pause", "source", "target"}) {
		t.Errorf("the lanes are %q", got)
	}
	for lane, spans := range tr.spans {
		checkNested(t, lane, spans)
	}
	return tr
}

// checkNested makes sure that of two spans in one lane, one lies within the other, or they do not overlap: Perfetto drops what crosses
// the end of another (SliceTracker of its trace processor).
func checkNested(t *testing.T, lane string, spans []traceEvent) {
	t.Helper()
	spans = slices.Clone(spans)
	slices.SortStableFunc(spans, func(a, b traceEvent) int { return cmp.Or(cmp.Compare(a.TS, b.TS), cmp.Compare(*b.Dur, *a.Dur)) })
	const rounding = 0.001 // µs; times are told to the nanosecond
	var open []traceEvent
	for _, e := range spans {
		for len(open) > 0 && open[len(open)-1].end() <= e.TS+rounding {
			open = open[:len(open)-1]
		}
		if len(open) > 0 && e.end() > open[len(open)-1].end()+rounding {
			t.Errorf("in lane %s %s, %.3f to %.3f µs, crosses the end of %s, %.3f to %.3f µs", lane, e.Name, e.TS, e.end(),
				open[len(open)-1].Name, open[len(open)-1].TS, open[len(open)-1].end())
		}
		open = append(open, e)
	}
}

func (e traceEvent) end() float64 { return e.TS + *e.Dur }

// arg is an argument that is a string.
func (e traceEvent) arg(key string) string {
	s, _ := e.Args[key].(string)
	return s
}

func (tr traced) has(lane, span string) (traceEvent, bool) {
	i := slices.IndexFunc(tr.spans[lane], func(e traceEvent) bool { return e.Name == span })
	if i < 0 {
		return traceEvent{}, false
	}
	return tr.spans[lane][i], true
}

// check compares the trace with the migration's own account.
func (tr traced) check(t *testing.T, m vmstate.Migration) {
	t.Helper()
	for _, p := range m.Phases[1:] {
		if !slices.Contains(tr.instants["handoff"], "phase "+string(p.Phase)) {
			t.Errorf("the trace has no phase %s", p.Phase)
		}
	}
	steps := []string{"plan", "inspect-source", "start-target", "verify-mapping", "compare-blocks", "compare-devices", "set-capabilities", "send-ahead", "populate",
		"last-look", "switch", "load", "run-target", "end-source"}
	source, target := []string{"query-status"}, []string{"qmp_capabilities", "migrate-incoming", "cont"}
	switch m.Way {
	case vmstate.WayDeviceState:
		steps, source = append(steps, "stop", "save"), append(source, "stop", "xen-save-devices-state")
	case vmstate.WayStopFirst:
		steps, source = append(steps, "stop", "migrate"), append(source, "stop", "migrate")
	case vmstate.WayLive:
		steps, source = append(steps, "migrate"), append(source, "migrate")
	}
	for lane, names := range map[string][]string{"handoff": steps, "pause": {"pause"}, "source": source, "target": target} {
		for _, name := range names {
			if e, ok := tr.has(lane, name); !ok || e.arg("error") != "" {
				t.Errorf("lane %s: %s is missing or failed: %+v", lane, name, e)
			}
		}
	}
	if !slices.Contains(tr.instants["source"], "STOP") || !slices.Contains(tr.instants["target"], "RESUME") ||
		!slices.Contains(tr.instants["target"], "MIGRATION completed") {
		t.Errorf("QEMU's events are %q and %q", tr.instants["source"], tr.instants["target"])
	}
	pause, _ := tr.has("pause", "pause")
	if pause.Dur == nil || int64(*pause.Dur) != *m.PauseUS {
		t.Errorf("the pause in the trace is %+v, the migration's %d µs", pause, *m.PauseUS)
	}
	// What lies in the pause lies in it. Live, the loading begins while the guest runs.
	for _, step := range []string{"load", "run-target"} {
		if step == "load" && m.Way == vmstate.WayLive {
			continue
		}
		e, _ := tr.has("handoff", step)
		if e.TS < pause.TS-1000 || e.TS > pause.TS+*pause.Dur {
			t.Errorf("%s begins at %.0f µs, the pause lasts from %.0f for %.0f", step, e.TS, pause.TS, *pause.Dur)
		}
	}
}

// compare makes sure that the lane of one side has every command that the transcript of its monitor has for the time of the migration.
func (tr traced) compare(t *testing.T, l *lab.Lab, lane string, generation int, m vmstate.Migration) {
	t.Helper()
	path := filepath.Join(l.Dir, "run/vms/vm1", fmt.Sprintf("g%d", generation), "qmp.log")
	got := map[string]int{}
	for _, e := range tr.spans[lane] {
		got[e.Name]++
	}
	l.Eventually("the transcript of the "+lane+" is written, and agrees with the trace", func() error {
		want, err := commands(path, m.StartedAt, *m.EndedAt)
		if err != nil {
			return err
		}
		if len(want) < 5 {
			return fmt.Errorf("the transcript has only %v", want)
		}
		for command, n := range want {
			if got[command] != n {
				return fmt.Errorf("the trace has %s %d times, the transcript %d", command, got[command], n)
			}
		}
		return nil
	})
}

// commands counts the commands in a monitor's transcript between two times.
func commands(path string, from, to time.Time) (map[string]int, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	count := map[string]int{}
	for line := range strings.Lines(string(text)) {
		words := strings.Fields(line)
		at, err := time.Parse("2006-01-02T15:04:05.000000Z", words[0])
		if err != nil {
			return nil, err
		}
		if words[1] == "QUERY" && !at.Before(from) && !at.After(to) {
			count[words[3]]++
		}
	}
	return count, nil
}
