package recovery_test

import (
	"slices"
	"testing"

	"qlive/flip/recovery"
	"qlive/vmstate"
)

// The table is total, it says why, and has no row that nothing ever reaches.
func TestTableIsTotal(t *testing.T) {
	table := recovery.Table()
	used := make([]bool, len(table))
	for _, e := range recovery.All() {
		row := recovery.Decide(e)
		at := slices.IndexFunc(table, func(r recovery.Row) bool { return r.Because == row.Because && r.Do == row.Do && same(r, row) })
		if at < 0 {
			t.Fatalf("no row for %+v", e)
		}
		used[at] = true
		if row.Because == "" || !slices.Contains(recovery.Actions(), row.Do) {
			t.Errorf("%+v: %q because %q", e, row.Do, row.Because)
		}
	}
	for i, row := range table {
		if !used[i] {
			t.Errorf("row %d is never reached: %+v", i, row)
		}
	}
	if n := len(recovery.All()); n < 7000 {
		t.Errorf("only %d combinations", n)
	}
}

func same(a, b recovery.Row) bool {
	return slices.Equal(a.Phases, b.Phases) && slices.Equal(a.Source, b.Source) && slices.Equal(a.Target, b.Target) && a.NeverRan == b.NeverRan &&
		a.Resolve == b.Resolve && a.Ran == b.Ran && a.Restarts == b.Restarts && a.Stranger == b.Stranger && a.Moved == b.Moved &&
		slices.Equal(a.Pages, b.Pages)
}

// Each action is held against what it needs, for all evidence: written down a second time, and differently.
func TestEveryCombination(t *testing.T) {
	runs := func(s recovery.Sight) bool { return s == recovery.Runs || s == recovery.Moving }
	for _, e := range recovery.All() {
		do := recovery.Decide(e).Do
		mayHaveRun := e.Phase == vmstate.Committing && !e.NeverRan && e.Ran
		apart := e.Pages == recovery.Coming || e.Pages == recovery.Cut
		undone := e.Phase == vmstate.Switching || e.NeverRan || e.Resolve == recovery.ToSource
		ok := true
		switch do {
		case recovery.GiveBack:
			ok = undone && !e.Moved && e.Target.Gone() && !apart && (e.Source == recovery.Moving || e.Source == recovery.Stands && e.Ran) && !e.Stranger
		case recovery.MoveBack:
			ok = undone && e.Moved && e.Target.Gone() && !e.Source.Gone() && !runs(e.Source)
		case recovery.RunTarget:
			ok = e.Ran && e.Target == recovery.Stands && (!runs(e.Source) || e.Pages == recovery.Coming) && !e.Stranger && e.Pages != recovery.Cut && e.Pages != recovery.Unmoved &&
				(e.Phase == vmstate.Committing && !e.NeverRan || e.Resolve == recovery.ToTarget && e.Source.Gone())
		case recovery.Fence:
			kept := e.Phase == vmstate.Committed || e.Phase == vmstate.Draining || e.Phase == vmstate.Completed || e.Resolve == recovery.ToTarget
			ok = !e.Target.Gone() && !mayHaveRun && !kept && (!apart || e.Resolve == recovery.Discard)
		case recovery.WriteOff:
			kept := e.Pages == recovery.Unmoved && e.Target.Gone()
			ok = e.Phase == vmstate.Committing && !e.NeverRan && !apart && (!e.Ran || e.Target == recovery.Loading || kept)
		case recovery.Intend:
			ok = e.Phase == vmstate.Switching && e.Source.Gone() && e.Target == recovery.Stands && !e.Restarts && !e.Stranger
		case recovery.Commit:
			ok = e.Phase == vmstate.Committing && !e.NeverRan && !e.Target.Gone() && e.Target != recovery.Mute && (!runs(e.Source) || e.Pages == recovery.Coming) &&
				e.Pages != recovery.Unmoved && e.Pages != recovery.Cut
		case recovery.Push:
			ok = e.Phase == vmstate.Committing && !e.NeverRan && e.Target == recovery.Loading && (e.Pages == recovery.Unmoved && e.Source == recovery.Moving || e.Pages == recovery.Coming)
		case recovery.Receive:
			late := e.Phase == vmstate.Committed || e.Phase == vmstate.Draining || e.Resolve == recovery.ToTarget
			ok = late && e.Pages == recovery.Coming && !e.Source.Gone() && !e.Target.Gone()
		case recovery.EndSource:
			late := e.Phase == vmstate.Committed || e.Phase == vmstate.Draining || e.Phase == vmstate.Completed
			ok = e.Pages == recovery.Together && (late || e.Resolve == recovery.ToTarget) || e.Resolve == recovery.Discard && e.Target.Gone()
		case recovery.Complete:
			ok = e.Phase == vmstate.Draining && e.Source.Gone() && e.Pages == recovery.Together
		case recovery.RollBack:
			ok = e.Phase.Undoable() && e.Target.Gone() && !mayHaveRun && (e.Phase.Revocable() || !e.Source.Gone() && e.Source != recovery.Mute)
		case recovery.GiveUp:
			ok = !e.Phase.Ended() && e.Target.Gone() && (!mayHaveRun || e.Source.Gone() || apart)
		case recovery.LeaveOpen:
			ok = !e.Phase.Ended()
		case recovery.Settle, recovery.Refuse:
			ok = e.Resolve != recovery.Undecided
		case recovery.Nothing:
			ok = e.Phase.Ended() && e.Resolve == recovery.Undecided
		}
		if !ok {
			t.Errorf("%s is wrong for %+v", do, e)
		}
		if to, ends := recordOf(do, e.Phase); ends && !e.Phase.CanBecome(to) {
			t.Errorf("%s leads from %s to %s, which the table of phases does not have", do, e.Phase, to)
		}
	}
}

// recordOf is the phase that an action records, if it records a new one.
func recordOf(do recovery.Action, from vmstate.Phase) (vmstate.Phase, bool) {
	switch do {
	case recovery.Intend:
		return vmstate.Committing, true
	case recovery.Commit:
		return vmstate.Committed, true
	case recovery.EndSource:
		return vmstate.Draining, from == vmstate.Committed
	case recovery.Complete:
		return vmstate.Completed, true
	case recovery.RollBack:
		return vmstate.RolledBack, true
	case recovery.GiveUp, recovery.LeaveOpen:
		return vmstate.Failed, true
	}
	return "", false
}

// What a person would say of the cases that matter most.
func TestDecide(t *testing.T) {
	const running = true
	for _, tt := range []struct {
		name string
		e    recovery.Evidence
		do   recovery.Action
	}{
		{"preparing, both well", recovery.Evidence{Phase: vmstate.Preparing, Ran: running, Source: recovery.Runs, Target: recovery.Loading}, recovery.Fence},
		{"preparing, target gone", recovery.Evidence{Phase: vmstate.Preparing, Ran: running, Source: recovery.Runs, Target: recovery.Absent}, recovery.RollBack},
		{"switching, target hangs", recovery.Evidence{Phase: vmstate.Switching, Ran: running, Source: recovery.Stands, Target: recovery.Mute}, recovery.Fence},
		{"switching, target gone", recovery.Evidence{Phase: vmstate.Switching, Ran: running, Source: recovery.Stands, Target: recovery.Dead}, recovery.GiveBack},
		{"switching, paused guest", recovery.Evidence{Phase: vmstate.Switching, Source: recovery.Stands, Target: recovery.Dead}, recovery.RollBack},
		{"switching, source in its migration", recovery.Evidence{Phase: vmstate.Switching, Ran: running, Source: recovery.Moving, Target: recovery.Dead}, recovery.GiveBack},
		{"switching, live source has restarted", recovery.Evidence{Phase: vmstate.Switching, Ran: running, Restarts: true, Source: recovery.Runs, Target: recovery.Stands}, recovery.Fence},
		{"switching, source killed, target loaded", recovery.Evidence{Phase: vmstate.Switching, Ran: running, Source: recovery.Dead, Target: recovery.Stands}, recovery.Intend},
		{"the same, live", recovery.Evidence{Phase: vmstate.Switching, Ran: running, Restarts: true, Source: recovery.Dead, Target: recovery.Stands}, recovery.LeaveOpen},
		{"switching, source hangs", recovery.Evidence{Phase: vmstate.Switching, Ran: running, Source: recovery.Mute, Target: recovery.Dead}, recovery.GiveUp},
		{"switching, both dead", recovery.Evidence{Phase: vmstate.Switching, Ran: running, Source: recovery.Dead, Target: recovery.Dead}, recovery.GiveUp},
		{"committing, target runs", recovery.Evidence{Phase: vmstate.Committing, Ran: running, Source: recovery.Stands, Target: recovery.Runs}, recovery.Commit},
		{"committing, target stands", recovery.Evidence{Phase: vmstate.Committing, Ran: running, Source: recovery.Stands, Target: recovery.Stands}, recovery.RunTarget},
		{"committing, target stands, source hangs", recovery.Evidence{Phase: vmstate.Committing, Ran: running, Source: recovery.Mute, Target: recovery.Stands}, recovery.RunTarget},
		{"committing, target hangs", recovery.Evidence{Phase: vmstate.Committing, Ran: running, Source: recovery.Stands, Target: recovery.Mute}, recovery.LeaveOpen},
		{"committing, target dead", recovery.Evidence{Phase: vmstate.Committing, Ran: running, Source: recovery.Stands, Target: recovery.Dead}, recovery.LeaveOpen},
		{"committing, target dead, it had refused", recovery.Evidence{Phase: vmstate.Committing, NeverRan: true, Ran: running, Source: recovery.Stands, Target: recovery.Dead}, recovery.GiveBack},
		{"committing, both dead", recovery.Evidence{Phase: vmstate.Committing, Ran: running, Source: recovery.Dead, Target: recovery.Dead}, recovery.GiveUp},
		{"committing, paused guest, target dead", recovery.Evidence{Phase: vmstate.Committing, Source: recovery.Stands, Target: recovery.Dead}, recovery.WriteOff},
		{"committing, paused guest", recovery.Evidence{Phase: vmstate.Committing, Source: recovery.Stands, Target: recovery.Stands}, recovery.Commit},
		{"committed, source stands", recovery.Evidence{Phase: vmstate.Committed, Ran: running, Source: recovery.Stands, Target: recovery.Runs}, recovery.EndSource},
		{"draining, target has ended since", recovery.Evidence{Phase: vmstate.Draining, Ran: running, Source: recovery.Stands, Target: recovery.Dead}, recovery.EndSource},
		{"draining, source dead", recovery.Evidence{Phase: vmstate.Draining, Ran: running, Source: recovery.Dead, Target: recovery.Runs}, recovery.Complete},
		{"postcopy, told to switch, or not yet", recovery.Evidence{Phase: vmstate.Committing, Ran: running, Restarts: true, Pages: recovery.Unmoved, Source: recovery.Moving, Target: recovery.Loading}, recovery.Push},
		{"postcopy, the source has kept the guest", recovery.Evidence{Phase: vmstate.Committing, Ran: running, Restarts: true, Pages: recovery.Unmoved, Source: recovery.Runs, Target: recovery.Dead}, recovery.WriteOff},
		{"postcopy, the target runs", recovery.Evidence{Phase: vmstate.Committing, Ran: running, Restarts: true, Pages: recovery.Coming, Source: recovery.Moving, Target: recovery.Runs}, recovery.Commit},
		{"postcopy, pages come", recovery.Evidence{Phase: vmstate.Draining, Ran: running, Restarts: true, Pages: recovery.Coming, Source: recovery.Moving, Target: recovery.Runs}, recovery.Receive},
		{"postcopy, source dead", recovery.Evidence{Phase: vmstate.Draining, Ran: running, Restarts: true, Pages: recovery.Cut, Source: recovery.Dead, Target: recovery.Runs}, recovery.LeaveOpen},
		{"postcopy, target dead", recovery.Evidence{Phase: vmstate.Draining, Ran: running, Restarts: true, Pages: recovery.Cut, Source: recovery.Moving, Target: recovery.Dead}, recovery.GiveUp},
		{"postcopy, all has come", recovery.Evidence{Phase: vmstate.Draining, Ran: running, Restarts: true, Source: recovery.Stands, Target: recovery.Runs}, recovery.EndSource},
		{"postcopy, lost, back to the source?", recovery.Evidence{Phase: vmstate.Failed, Resolve: recovery.ToSource, Pages: recovery.Cut, Ran: running, Source: recovery.Moving, Target: recovery.Dead}, recovery.Refuse},
		{"completed", recovery.Evidence{Phase: vmstate.Completed, Ran: running, Source: recovery.Dead, Target: recovery.Runs}, recovery.Nothing},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if row := recovery.Decide(tt.e); row.Do != tt.do {
				t.Errorf("%s (%s), want %s", row.Do, row.Because, tt.do)
			}
		})
	}
}
