package recovery_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"qlive/flip/recovery"
	"qlive/vmstate"
)

// real is the model on the tables that the code runs on.
func real() *model { return &model{table: recovery.Table(), phases: vmstate.Phases()} }

// starts are the states in which handoffs begin.
func starts() []state {
	var all []state
	for _, way := range vmstate.Ways() {
		all = append(all,
			state{ran: true, way: way, source: qemu{is: runs}},
			state{ran: false, way: way, source: qemu{is: stands}})
	}
	for _, s := range slices.Clone(all) {
		if s.rehouse = s.way == vmstate.WayDeviceState; s.rehouse {
			all = append(all, s)
		}
	}
	return all
}

// wrong tells what an edge does that must never be done.
func (m *model) wrong(from state, e edge) string {
	to := e.to
	phase := m.info(to).Phase
	starts := func(who string) bool { return to.at(who).is == runs && from.at(who).is != runs }
	switch {
	case to.source.is == runs && to.target.is == runs:
		return "two QEMUs run one guest"
	case starts("source") && to.away:
		return "the source runs though its memory is elsewhere"
	case to.away && !from.away && to.source.is == runs:
		return "memory is moved while the guest runs on it"
	case from.away && !to.away && from.target.alive():
		return "memory is moved back under a target that lives"
	case starts("source") && from.targetRan && !to.toSource:
		return "the source runs after the target has run"
	case starts("target") && from.movedOn && !to.toTarget:
		return "the target runs though the source has run on"
	case starts("target") && (phase.Revocable() || phase == vmstate.Switching || phase == vmstate.RolledBack):
		return "the target runs while the journal says " + string(phase)
	case to.mode == idle:
		return m.wrongEnd(to)
	}
	return ""
}

// wrongEnd tells what an end that was reached does not hold of what it says.
func (m *model) wrongEnd(s state) string {
	phase := m.info(s).Phase
	quiet := func(q qemu) bool { return q.works() && q.queue[0] == none }
	switch {
	case !phase.Ended():
		return "the daemon rests while the handoff is " + string(phase)
	case s.away && (phase == vmstate.RolledBack || phase == vmstate.Aborted || s.settled && s.resolve == recovery.ToSource):
		return "the source has the guest, and its memory is elsewhere"
	case phase == vmstate.Completed && s.source.alive():
		return "completed, and the source lives"
	case phase == vmstate.RolledBack && s.target.alive():
		return "rolled back, and the target lives"
	case phase == vmstate.Completed && s.ran && quiet(s.target) && s.target.is == stands:
		return "completed, and the guest stands in the target"
	case phase == vmstate.RolledBack && s.ran && quiet(s.source) && s.source.is == stands:
		return "rolled back, and the guest stands in the source"
	case s.settled && s.resolve == recovery.ToSource && (s.target.alive() || s.ran && quiet(s.source) && s.source.is == stands):
		return "resolved to the source, and it does not run, or the target lives"
	case s.settled && s.resolve == recovery.ToTarget && (s.source.alive() || s.ran && quiet(s.target) && s.target.is == stands):
		return "resolved to the target, and it does not run, or the source lives"
	case phase == vmstate.Failed && !s.hurt:
		return "failed, though no QEMU was killed, hung or was late"
	}
	return ""
}

// explored is every state that can be reached, with the step by which it was reached first.
type explored struct {
	from map[state]step
	all  []state
}

type step struct {
	before state
	name   string
}

// explore walks every state that can be reached, and returns the first thing that must never be, with the way there; then it makes sure that from each
// state, if nothing more goes wrong, every way leads to an end.
func (m *model) explore() (int, error) {
	x := explored{from: make(map[state]step)}
	for _, s := range starts() {
		x.from[s] = step{}
		x.all = append(x.all, s)
	}
	for i := 0; i < len(x.all); i++ {
		s := x.all[i]
		for _, e := range m.next(s) {
			if _, seen := x.from[e.to]; !seen {
				x.from[e.to] = step{s, e.name}
				x.all = append(x.all, e.to)
			}
			if what := m.wrong(s, e); what != "" {
				return len(x.all), fmt.Errorf("%s:\n%s%s", what, x.path(s), e.name)
			}
		}
	}
	return len(x.all), m.ends(&x)
}

// path tells how s was reached.
func (x *explored) path(s state) string {
	var lines []string
	for at := x.from[s]; at.name != ""; at = x.from[at.before] {
		lines = append(lines, at.name+"\n")
	}
	slices.Reverse(lines)
	return fmt.Sprintf("%s guest, way %s\n", map[bool]string{true: "running", false: "paused"}[s.ran], s.way) + strings.Join(lines, "")
}

// ends walks the steps that are no faults, depth first: no state without a step that does not rest, and no circle.
func (m *model) ends(x *explored) error {
	const (
		open = 1
		good = 2
	)
	mark := make(map[state]uint8, len(x.all))
	var walk func(s state) error
	walk = func(s state) error {
		mark[s] = open
		if s.mode == idle {
			mark[s] = good
			return nil
		}
		steps := 0
		for _, e := range m.next(s) {
			if e.fault {
				continue
			}
			steps++
			switch mark[e.to] {
			case good:
			case open:
				return fmt.Errorf("goes round in a circle:\n%s%s", x.path(s), e.name)
			default:
				if err := walk(e.to); err != nil {
					return err
				}
			}
		}
		if steps == 0 {
			return fmt.Errorf("stays for ever:\n%s%+v", x.path(s), s)
		}
		mark[s] = good
		return nil
	}
	for _, s := range x.all {
		if mark[s] == 0 {
			if err := walk(s); err != nil {
				return err
			}
		}
	}
	return nil
}

// Whatever is killed, hangs, is late or is lost, at every step and during recovery as well: one runner at most, no source that runs after its target, and
// an end from everywhere.
func TestModel(t *testing.T) {
	n, err := real().explore()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d states", n)
	if n < 10000 {
		t.Errorf("only %d states: the model is not what it was", n)
	}
}

// Random histories, longer than the shortest ways that the exploration finds.
func TestHistories(t *testing.T) {
	m := real()
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.SampledFrom(starts()).Draw(t, "start")
		for range rapid.IntRange(1, 120).Draw(t, "steps") {
			edges := m.next(s)
			e := edges[rapid.IntRange(0, len(edges)-1).Draw(t, "edge")]
			if what := m.wrong(s, e); what != "" {
				t.Fatalf("%s by %s from %+v", what, e.name, s)
			}
			s = e.to
		}
	})
}
