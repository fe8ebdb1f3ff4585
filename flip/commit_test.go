package flip

import (
	"context"
	"errors"
	"testing"
	"time"

	"qlive/internal/qmp"
	"qlive/internal/qmp/qmptest"
	"qlive/vmstate"
)

// What is proved by how a target that was told to run ends: only silence leaves it open whether it has run.
func TestRunTarget(t *testing.T) {
	for name, tt := range map[string]struct {
		answer   func(*actor, *qmptest.Conn, qmptest.Request) (hangUp bool)
		ok       bool
		neverRan bool
	}{
		"obeys": {answer: func(_ *actor, c *qmptest.Conn, r qmptest.Request) bool {
			c.Event(qmp.EventResume, nil)
			c.Return(r, nil)
			return false
		}, ok: true},
		"refuses": {answer: func(_ *actor, c *qmptest.Conn, r qmptest.Request) bool {
			c.Refuse(r, "locked")
			return false
		}, neverRan: true},
		"dies": {answer: func(a *actor, _ *qmptest.Conn, _ qmptest.Request) bool {
			a.die()
			return true
		}, neverRan: true},
		"dies, and takes its time": {answer: func(a *actor, _ *qmptest.Conn, _ qmptest.Request) bool {
			time.AfterFunc(400*time.Millisecond, func() { _ = a.process.Kill() }) // its monitor is closed first
			return true
		}, neverRan: true},
		"dies as it runs": {answer: func(a *actor, c *qmptest.Conn, _ qmptest.Request) bool {
			c.Event(qmp.EventResume, nil)
			a.die()
			return true
		}},
		"hangs up and lives": {answer: func(*actor, *qmptest.Conn, qmptest.Request) bool { return true }},
	} {
		t.Run(name, func(t *testing.T) {
			h, _, _ := newBare(t, nil)
			a, side := play(t, "target", qmp.RunPaused, &notes{records: []Record{{Phase: vmstate.Committing}}})
			a.mu.Lock()
			a.cont = tt.answer
			a.mu.Unlock()
			h.target, h.cfg.Source = side, side
			h.m.Phase = vmstate.Committing
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			err := h.step(ctx, step{name: "run-target", do: h.runTarget})
			if (err == nil) != tt.ok || refusedToRun(err) != tt.neverRan || !h.told || h.ran != tt.ok {
				t.Errorf("%v; never ran: %v, told: %v, ran: %v", err, refusedToRun(err), h.told, h.ran)
			}
		})
	}
}

// An act that its phase does not have is refused.
func TestMay(t *testing.T) {
	h, _, _ := newBare(t, nil)
	for _, row := range vmstate.Phases() {
		h.m.Phase = row.Phase
		for _, a := range []vmstate.Act{vmstate.ActStartTarget, vmstate.ActStopSource, vmstate.ActLoadTarget, vmstate.ActRunTarget, vmstate.ActEndSource} {
			err := h.may(a)
			if row.Phase.May(a) != (err == nil) || err != nil && vmstate.KindOf(err) != vmstate.Internal {
				t.Errorf("%s in %s: %v", a, row.Phase, err)
			}
		}
	}
}

// What the journal says of a target that was told to run and has not answered.
func TestAbandonCommitting(t *testing.T) {
	for name, tt := range map[string]struct {
		told, dead bool
		want       Record
	}{
		"not told":           {want: Record{Phase: vmstate.Committing, NeverRan: true}},
		"told, and silent":   {told: true, want: Record{Phase: vmstate.Failed, Undecided: true, Silent: true}},
		"told, and dead now": {told: true, dead: true, want: Record{Phase: vmstate.Failed, Undecided: true}},
	} {
		t.Run(name, func(t *testing.T) {
			h, journal, _ := newBare(t, nil)
			a, side := play(t, "target", qmp.RunPaused, journal)
			if tt.dead {
				a.die()
			}
			h.target, h.cfg.Source = side, side
			h.m.Phase, h.told = vmstate.Committing, tt.told
			h.cfg.Gate.Lock()
			h.gated = true
			if _, err := h.abandon(t.Context(), errors.New("something")); err == nil {
				t.Error("it is no failure")
			}
			got := journal.records[0]
			if got.Phase != tt.want.Phase || got.NeverRan != tt.want.NeverRan || got.Undecided != tt.want.Undecided || got.Silent != tt.want.Silent {
				t.Errorf("the journal has %+v", got)
			}
		})
	}
}
