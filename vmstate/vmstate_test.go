package vmstate_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"qlive/vmstate"
)

func TestCheckName(t *testing.T) {
	for name, ok := range map[string]bool{
		"vm1": true, "0": true, "a.b_c-d": true, strings.Repeat("x", 63): true,
		"": false, ".": false, "..": false, "-a": false, "A": false, "a/b": false, "a b": false, "ä": false, "a\n": false,
		strings.Repeat("x", 64): false, "migrations": false, "events": false, "version": false, "health": false, "abi": false,
	} {
		err := vmstate.CheckName(name)
		if (err == nil) != ok {
			t.Errorf("%q: %v", name, err)
		}
		if err != nil && vmstate.KindOf(err) != vmstate.Invalid {
			t.Errorf("%q: kind %s", name, vmstate.KindOf(err))
		}
	}
}

// Every phase is reachable, every phase but the ends leads to an end, and the source can go on from each phase up to the point of no
// return.
func TestPhases(t *testing.T) {
	reached := map[vmstate.Phase]bool{}
	var walk func(vmstate.Phase) bool
	walk = func(p vmstate.Phase) bool {
		if reached[p] {
			return true
		}
		reached[p] = true
		if p.Ended() {
			return true
		}
		ends := false
		for _, next := range p.Info().Next {
			ends = walk(next) || ends
		}
		if !ends {
			t.Errorf("%s leads to no end", p)
		}
		return ends
	}
	walk(vmstate.Planned)
	for _, row := range vmstate.Phases() {
		if !reached[row.Phase] {
			t.Errorf("%s is never reached", row.Phase)
		}
	}
	for _, p := range []vmstate.Phase{vmstate.Planned, vmstate.Preparing, vmstate.Prepared, vmstate.Switching} {
		if !p.Undoable() {
			t.Errorf("%s cannot be undone", p)
		}
	}
	for _, p := range []vmstate.Phase{vmstate.Committed, vmstate.Draining, vmstate.Completed} {
		if p.Undoable() || p.Revocable() {
			t.Errorf("%s can be undone", p)
		}
	}
	if vmstate.Switching.Revocable() || !vmstate.Prepared.Revocable() {
		t.Error("a handoff can be cancelled until it switches, and no longer")
	}
	if (vmstate.Phase("nonsense")).Ended() {
		t.Error("what is no phase has no end")
	}
}

func TestKinds(t *testing.T) {
	seen := map[vmstate.Kind]bool{}
	for _, row := range vmstate.Kinds() {
		if seen[row.Kind] {
			t.Errorf("%s stands twice", row.Kind)
		}
		seen[row.Kind] = true
		if row.Status < 400 || row.Status > 599 || row.Errno == 0 || row.Exit == 0 || row.Title == "" {
			t.Errorf("row is not complete: %+v", row)
		}
		p := vmstate.ProblemOf(vmstate.Errorf(row.Kind, "cannot do it").With("do that"))
		if p.Kind() != row.Kind || p.Status != row.Status || p.Remedy != "do that" {
			t.Errorf("%s makes the problem %+v", row.Kind, p)
		}
	}
	if vmstate.Kind("nonsense").Info().Kind != vmstate.Internal {
		t.Error("an unknown kind is not internal")
	}
}

func TestErrorf(t *testing.T) {
	cause := errors.New("disk full")
	err := fmt.Errorf("outside: %w", vmstate.Errorf(vmstate.Exhausted, "cannot write: %w", cause))
	if !errors.Is(err, cause) || vmstate.KindOf(err) != vmstate.Exhausted {
		t.Errorf("got %v of kind %s", err, vmstate.KindOf(err))
	}
	if got := vmstate.KindOf(cause); got != vmstate.Internal {
		t.Errorf("an error without a kind is %s", got)
	}
	e := &vmstate.Error{Detail: "cannot load", Words: []string{"first", "last"}}
	if got := e.Error(); got != "cannot load: last" {
		t.Errorf("got %q", got)
	}
}

// Whatever is observed, in whatever order, a region never goes back, and is done exactly when it is released.
func TestRegionMonotonic(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const size = 64 << 20
		r := vmstate.Region{Name: "r", SizeBytes: size}.Reset(1)
		for range rapid.IntRange(1, 20).Draw(t, "steps") {
			was := r
			if rapid.Bool().Draw(t, "observe") {
				n := rapid.Uint64Range(0, 2*size)
				r = r.Observe(n.Draw(t, "mapped"), n.Draw(t, "populated"), n.Draw(t, "flipped"), n.Draw(t, "released"))
			} else {
				r = r.Advance(rapid.SampledFrom(vmstate.RegionStates()).Draw(t, "state"))
			}
			if r.State.Rank() < was.State.Rank() || r.DoneBytes < was.DoneBytes || r.Progress < was.Progress || r.MappedBytes < was.MappedBytes {
				t.Fatalf("went back from %+v to %+v", was, r)
			}
			if r.Progress > 100 || r.DoneBytes > r.TotalBytes {
				t.Fatalf("more than all: %+v", r)
			}
		}
		if r = r.Advance(vmstate.Released); r.Progress != 100 || r.DoneBytes != size {
			t.Fatalf("released and not done: %+v", r)
		}
	})
}
