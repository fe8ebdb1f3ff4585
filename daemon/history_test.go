package daemon

import (
	"os"
	"path/filepath"
	"testing"

	"qlive/flip"
	"qlive/internal/journal"
	"qlive/vmstate"
)

// The journal's records are told apart by migration, and say how each went.
func TestHistory(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	j, err := journal.Open(path)
	must(t, err)
	source, target := flip.ProcessID{PID: 1, StartTime: 10, Dir: "/g0"}, flip.ProcessID{PID: 2, StartTime: 20, Dir: "/g1"}
	for _, r := range []flip.Record{
		{Migration: "a", VM: "vm1", Phase: vmstate.Planned, Source: source},
		{Migration: "a", VM: "vm1", Phase: vmstate.RolledBack, Source: source, Error: &vmstate.Problem{Detail: "no"}},
		{Migration: "b", VM: "vm1", Phase: vmstate.Preparing, Source: source},
		{Migration: "b", VM: "vm1", Phase: vmstate.Committing, Source: source, Target: target, Way: vmstate.WayLive},
		{Migration: "b", VM: "vm1", Phase: vmstate.Committing, Source: source, Target: target, Way: vmstate.WayLive, NeverRan: true},
	} {
		must(t, j.Append(r))
	}
	must(t, j.Close())
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	must(t, err)
	_, err = f.WriteString(`{"seq":6,"at":"20`) // torn
	must(t, err)
	must(t, f.Close())

	list, err := readHistory(path)
	must(t, err)
	if len(list) != 2 || len(list[0].records) != 2 || len(list[1].records) != 3 || list[1].target() != target || !list[1].last().NeverRan {
		t.Fatalf("%+v", list)
	}
	binaryOf := func(dir string) (string, string) { return "/bin" + dir, "7.2" }
	a := list[0].migration(binaryOf)
	if a.ID != "a" || a.Phase != vmstate.RolledBack || a.EndedAt == nil || a.Error.Detail != "no" || len(a.Phases) != 2 || a.From.Binary != "/bin/g0" {
		t.Errorf("the first is %+v", a)
	}
	b := list[1].migration(binaryOf)
	if b.ID != "b" || b.EndedAt != nil || len(b.Phases) != 2 || b.To != (vmstate.QEMUProcess{Binary: "/bin/g1", Version: "7.2", PID: 2}) || b.Way != vmstate.WayLive {
		t.Errorf("the second is %+v", b)
	}
	if !(&left{history: list}).standing() || (&left{history: list[:1]}).standing() || (&left{}).standing() {
		t.Error("it is not told which guests stand")
	}
}

// Numbers of events go on where another daemon has left off.
func TestNumbersGoOn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events.seq")
	for _, want := range []uint64{1, 2, 3} {
		h := newHub()
		must(t, h.keepNumbers(path))
		if got := h.emit(vmstate.Event{}); got != want {
			t.Errorf("the number is %d, want %d", got, want)
		}
		must(t, h.dropNumbers())
		must(t, h.dropNumbers())
	}
	// One who has seen all of the last daemon's events misses nothing; one who has not is told so.
	for _, c := range []struct {
		after uint64
		first vmstate.EventType
	}{{3, vmstate.EventVM}, {2, vmstate.EventReset}, {9, vmstate.EventReset}} {
		must(t, os.WriteFile(path, []byte("00000000000000000003\n"), 0o600))
		h := newHub()
		must(t, h.keepNumbers(path))
		sub := h.subscribe(c.after, noState)
		h.emit(vmstate.Event{Type: vmstate.EventVM})
		if e := <-sub.Events; e.Type != c.first {
			t.Errorf("after %d there comes %s, want %s", c.after, e.Type, c.first)
		}
		sub.Close()
		must(t, h.dropNumbers())
	}
	must(t, os.WriteFile(path, []byte("many"), 0o600))
	refusedAs(t, newHub().keepNumbers(path), vmstate.Host, path)
}
