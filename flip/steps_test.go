package flip

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"qlive/internal/failpoint"
	"qlive/vmstate"
)

// notes is a journal that remembers, and fails when told to.
type notes struct {
	mu      sync.Mutex
	records []Record
	fail    map[vmstate.Phase]error
}

func (n *notes) Record(r Record) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.fail[r.Phase]; err != nil {
		return err
	}
	n.records = append(n.records, r)
	return nil
}

func (n *notes) phases() (list []vmstate.Phase) {
	for _, r := range n.records {
		list = append(list, r.Phase)
	}
	return list
}

// newBare makes a handoff without QEMUs: enough for what does not speak to one.
func newBare(t *testing.T, points Failpoints) (*Handoff, *notes, *[]vmstate.Migration) {
	t.Helper()
	journal, published := &notes{}, new([]vmstate.Migration)
	h := New(Config{
		Migration: vmstate.Migration{ID: "mig-1", VM: "vm1", Regions: []vmstate.Region{region("pc.ram"), region("far")}},
		Way:       vmstate.WayDeviceState, Source: &Side{}, Journal: journal, Failpoints: points, Gate: new(sync.Mutex),
		Spec:    vmstate.MigrationSpec{TimeoutS: 60, MaxPauseMS: 1000},
		Publish: func(m vmstate.Migration) { *published = append(*published, m) },
	})
	return h, journal, published
}

func region(name string) vmstate.Region {
	return vmstate.Region{Name: name, SizeBytes: 1 << 20, TotalBytes: 1 << 20, State: vmstate.Owned}
}

func TestUndoOrder(t *testing.T) {
	h, _, _ := newBare(t, nil)
	var done []string
	note := func(what string, err error) func(context.Context) error {
		return func(context.Context) error { done = append(done, what); return err }
	}
	err := h.run(t.Context(),
		step{name: "a", do: note("a", nil), undo: note("undo a", nil)},
		step{name: "b", do: note("b", nil)},
		step{name: "c", do: note("c", nil), undo: note("undo c", errors.New("stuck"))},
		step{name: "d", do: note("d", errors.New("broken")), undo: note("undo d", errors.New("stuck too"))},
		step{name: "e", do: note("e", nil), undo: note("undo e", nil)},
	)
	if p := vmstate.ProblemOf(err); p.Step != "d" || p.VM != "vm1" || p.Migration != "mig-1" || !strings.Contains(p.Detail, "broken") {
		t.Errorf("the problem is %+v", p)
	}
	undone := h.undo(t.Context())
	// The undo of the step that failed runs as well, and no failure keeps the others from running.
	want := []string{"a", "b", "c", "d", "undo d", "undo c", "undo a"}
	if !slices.Equal(done, want) {
		t.Errorf("done is %q, want %q", done, want)
	}
	if undone == nil || !strings.Contains(undone.Error(), "stuck too") || !strings.Contains(undone.Error(), "stuck\n") && !strings.HasSuffix(undone.Error(), "stuck") {
		t.Errorf("the undo's failures are %v", undone)
	}
	if err := h.undo(t.Context()); err != nil || len(done) != len(want) {
		t.Errorf("a second undo does something: %v, %q", err, done)
	}
}

func TestFailpointsAroundAStep(t *testing.T) {
	for _, tt := range []struct {
		spec  string
		done  bool // the step itself
		undos int
	}{
		{"", true, 1},
		{"flip.a.before=error(no)", false, 1}, // it is registered before anything is done
		{"flip.a.after=error(no)", true, 1},
	} {
		t.Run(tt.spec, func(t *testing.T) {
			points, err := failpoint.New(tt.spec)
			if err != nil {
				t.Fatal(err)
			}
			h, _, _ := newBare(t, points)
			done, undos := false, 0
			err = h.step(t.Context(), step{name: "a",
				do:   func(context.Context) error { done = true; return nil },
				undo: func(context.Context) error { undos++; return nil }})
			if (err != nil) != (tt.spec != "") || done != tt.done {
				t.Errorf("error %v, done %v", err, done)
			}
			if err := h.undo(t.Context()); err != nil || undos != tt.undos {
				t.Errorf("undone %d times, %v", undos, err)
			}
		})
	}
}

// What fails because a context has ended is explained by the reason for that end.
func TestExplain(t *testing.T) {
	h, _, _ := newBare(t, nil)
	why := vmstate.Errorf(vmstate.Timeout, "cannot do it in time").With("take longer")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	for _, tt := range []struct {
		name string
		ctx  context.Context
		err  error
		kind vmstate.Kind
		says string
	}{
		{"the end of the context", ctx, ctx.Err(), vmstate.Timeout, "cannot do it in time"},
		{"wrapped", ctx, fmt.Errorf("waiting: %w", ctx.Err()), vmstate.Timeout, "cannot do it in time"},
		{"something else while it ends", ctx, errors.New("broken"), vmstate.QEMU, "cannot load: broken"},
		{"a problem", t.Context(), vmstate.Errorf(vmstate.Incompatible, "cannot fit"), vmstate.Incompatible, "cannot fit"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := h.explain(tt.ctx, "load", tt.err)
			p := vmstate.ProblemOf(err)
			if p.Kind() != tt.kind || p.Detail != tt.says || p.Step != "load" || p.Migration != "mig-1" {
				t.Errorf("got %+v", p)
			}
		})
	}
	known := vmstate.Errorf(vmstate.Incompatible, "cannot fit")
	known.Step = "compare"
	if p := vmstate.ProblemOf(h.explain(t.Context(), "load", known)); p.Step != "compare" {
		t.Errorf("the step that was named first is lost: %+v", p)
	}
	if known.VM != "" {
		t.Error("the error that came is changed")
	}
}

// The journal comes before the phase, the phase before whoever looks on; what the table does not have is refused.
func TestTransition(t *testing.T) {
	h, journal, published := newBare(t, nil)
	if err := h.transition(vmstate.Switching); vmstate.KindOf(err) != vmstate.Internal || h.phase() != vmstate.Planned {
		t.Errorf("from planned to switching: %v, phase %s", err, h.phase())
	}
	for _, to := range []vmstate.Phase{vmstate.Preparing, vmstate.Prepared, vmstate.Switching, vmstate.Committing, vmstate.Committed} {
		before := len(*published)
		if err := h.transition(to); err != nil {
			t.Fatal(err)
		}
		if quiet := to == vmstate.Committing; (len(*published) == before) != quiet {
			t.Errorf("%s is published %d times", to, len(*published)-before)
		}
	}
	want := []vmstate.Phase{vmstate.Preparing, vmstate.Prepared, vmstate.Switching, vmstate.Committing, vmstate.Committed}
	if got := journal.phases(); !slices.Equal(got, want) {
		t.Errorf("the journal has %v", got)
	}
	m := h.Migration()
	for i, p := range m.Phases {
		if i > 0 && p.At.Before(m.Phases[i-1].At) {
			t.Errorf("%s begins before %s", p.Phase, m.Phases[i-1].Phase)
		}
	}
}

func TestTransitionNotJournalled(t *testing.T) {
	h, journal, published := newBare(t, nil)
	journal.fail = map[vmstate.Phase]error{vmstate.Preparing: errors.New("no room")}
	err := h.transition(vmstate.Preparing)
	if vmstate.KindOf(err) != vmstate.Host || !strings.Contains(err.Error(), "no room") || h.phase() != vmstate.Planned || len(*published) != 0 {
		t.Errorf("got %v, phase %s, published %d times", err, h.phase(), len(*published))
	}
}

func TestCancelByPhase(t *testing.T) {
	for _, row := range vmstate.Phases() {
		t.Run(string(row.Phase), func(t *testing.T) {
			h, _, _ := newBare(t, nil)
			h.mu.Lock()
			h.m.Phase = row.Phase
			h.mu.Unlock()
			for what, err := range map[string]error{"cancel": h.Cancel("as asked"), "cancel again": h.Cancel("as asked"), "continue": h.Continue(), "continue again": h.Continue()} {
				if row.Phase.Revocable() != (err == nil) || err != nil && (vmstate.KindOf(err) != vmstate.Conflict || !strings.Contains(err.Error(), string(row.Phase))) {
					t.Errorf("%s: %v", what, err)
				}
			}
			if !row.Phase.Revocable() {
				return
			}
			for _, next := range row.Next {
				if err := h.transition(next); !next.Ended() && vmstate.KindOf(err) != vmstate.Cancelled {
					t.Errorf("a handoff that was cancelled goes on to %s: %v", next, err)
				}
			}
		})
	}
}

// The end is reached though the journal cannot be written, and says how it was.
func TestEnd(t *testing.T) {
	h, journal, published := newBare(t, nil)
	journal.fail = map[vmstate.Phase]error{vmstate.Failed: errors.New("no room")}
	cause := vmstate.Errorf(vmstate.Incompatible, "cannot fit")
	if err := h.end(vmstate.Failed, cause); !errors.Is(err, cause) {
		t.Errorf("got %v", err)
	}
	m := h.Migration()
	if m.Phase != vmstate.Failed || m.EndedAt == nil || m.Error == nil || m.Error.Detail != "cannot fit" || len(*published) != 1 {
		t.Errorf("got %+v, published %d times", m, len(*published))
	}
	if got := m.EndedAt.Sub(m.StartedAt).Microseconds(); m.TotalUS != got || h.Migration().TotalUS != got {
		t.Errorf("it took %d µs, and then %d, want %d", m.TotalUS, h.Migration().TotalUS, got)
	}
}

func TestSizesQueuesTo1024(t *testing.T) {
	for version, want := range map[string]bool{
		"7.2.22": false, "10.0.0": false, "10.0.2": false, "10.0.12": false, "10.0.13": true, "10.0.14": true, "10.1.13": false, "11.1.3": false, "": false, "10.0": false,
	} {
		if got := sizesQueuesTo1024(version); got != want {
			t.Errorf("%q: %v", version, got)
		}
	}
}
