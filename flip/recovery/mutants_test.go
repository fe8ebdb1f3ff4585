package recovery_test

import (
	"slices"
	"strings"
	"testing"

	"qlive/flip/recovery"
	"qlive/vmstate"
)

// because changes the rows that give this reason in this phase.
func because(m *model, p vmstate.Phase, reason string, change func(*recovery.Row)) bool {
	found := false
	for i := range m.table {
		if m.table[i].Because == reason && slices.Contains(m.table[i].Phases, p) {
			found = true
			change(&m.table[i])
		}
	}
	return found
}

func do(a recovery.Action) func(*recovery.Row) { return func(r *recovery.Row) { r.Do = a } }

// acts gives a phase other acts.
func acts(m *model, p vmstate.Phase, list ...vmstate.Act) bool {
	m.phases[m.index(p)].Acts = list
	return true
}

// The model notices when a table is wrong: each of these mistakes would lose a guest, or let two QEMUs run it.
func TestModelNotices(t *testing.T) {
	for _, tt := range []struct {
		name   string
		mutate func(*model) bool // false: there is nothing to mutate any more
		says   string
	}{
		{"a mute target is taken for a dead one", func(m *model) bool {
			return because(m, vmstate.Committing, "the target does not answer, and may run the guest now or later", do(recovery.WriteOff))
		}, "the source runs after the target has run"},
		{"a target that died in committing is taken for one that never ran", func(m *model) bool {
			return because(m, vmstate.Committing, "the target is dead and may have run: the guest's RAM may have moved on from what the source knows", do(recovery.WriteOff))
		}, "the source runs after the target has run"},
		{"no fence before the source is given the guest", func(m *model) bool {
			return because(m, vmstate.Switching, "the target has not been told to run: the guest goes back to the source", do(recovery.GiveBack))
		}, "failed, though no QEMU was killed"},
		{"no fence before rolled_back", func(m *model) bool {
			return because(m, vmstate.Prepared, "the guest has not been stopped: it stays where it is", do(recovery.RollBack))
		}, "rolled back, and the target lives"},
		{"a live source that has died is taken for one that stood", func(m *model) bool {
			return because(m, vmstate.Switching, "the source is dead, and the target has loaded all of the guest as it was stopped", func(r *recovery.Row) { r.Restarts = recovery.Any })
		}, "the target runs though the source has run on"},
		{"the intent is not recorded", func(m *model) bool {
			return because(m, vmstate.Switching, "the source is dead, and the target has loaded all of the guest as it was stopped", do(recovery.RunTarget))
		}, "the target runs while the journal says switching"},
		{"the target is killed as it may run", func(m *model) bool {
			return because(m, vmstate.Committing, "the target has all of the guest, and both sides had reported success", do(recovery.LeaveOpen))
		}, "failed, though no QEMU was killed"},
		{"committed, and the source is left alone", func(m *model) bool {
			return because(m, vmstate.Draining, "the guest is in the target", do(recovery.Complete))
		}, "completed, and the source lives"},
		{"a guest is given back without being run", func(m *model) bool {
			return because(m, vmstate.Switching, "the target is gone and has never run", do(recovery.RollBack))
		}, "rolled back, and the guest stands in the source"},
		{"a guest is called committed without being run", func(m *model) bool {
			return because(m, vmstate.Committing, "the target has all of the guest, and both sides had reported success", do(recovery.Commit))
		}, "completed, and the guest stands in the target"},
		{"memory that was moved is left where it is", func(m *model) bool {
			return because(m, vmstate.Switching, "the target is gone, and part of the guest's memory is in the new backing", do(recovery.GiveBack))
		}, "the source runs though its memory is elsewhere"},
		{"memory is moved back before the fence", func(m *model) bool {
			return because(m, vmstate.Switching, "the target has not been told to run: the guest goes back to the source", do(recovery.MoveBack))
		}, "memory is moved back under a target that lives"},
		{"memory is moved before the source is stopped", func(m *model) bool {
			return acts(m, vmstate.Switching, vmstate.ActMoveMemory, vmstate.ActStopSource, vmstate.ActLoadTarget)
		}, "memory is moved while the guest runs on it"},
		{"a decision that decides nothing", func(m *model) bool {
			return because(m, vmstate.Committing, "the target does not answer, and may run the guest now or later", do(recovery.Nothing))
		}, "the daemon rests while the handoff is committing"},
		{"a person is obeyed without a fence", func(m *model) bool {
			return because(m, vmstate.Failed, "the guest shall be the source's", func(r *recovery.Row) {
				if r.Do == recovery.Fence {
					r.Do = recovery.GiveBack
				}
			})
		}, "two QEMUs run one guest"},
		{"the target runs before the intent is recorded", func(m *model) bool {
			return acts(m, vmstate.Switching, vmstate.ActStopSource, vmstate.ActLoadTarget, vmstate.ActRunTarget) && acts(m, vmstate.Committing)
		}, "the target runs while the journal says switching"},
		{"the source is ended before the target is told to run", func(m *model) bool {
			return acts(m, vmstate.Committing, vmstate.ActEndSource, vmstate.ActRunTarget) && acts(m, vmstate.Draining)
		}, "failed, though no QEMU was killed"},
		{"the source is not stopped", func(m *model) bool { return acts(m, vmstate.Switching, vmstate.ActLoadTarget) },
			"two QEMUs run one guest"},
		{"the source is stopped before that is recorded", func(m *model) bool {
			return acts(m, vmstate.Prepared, vmstate.ActStopSource) && acts(m, vmstate.Switching, vmstate.ActLoadTarget)
		}, "rolled back, and the guest stands in the source"},
		{"the source is not ended", func(m *model) bool { return acts(m, vmstate.Draining) }, "completed, and the source lives"},
		{"every failure is taken for silence", func(m *model) bool { m.alwaysSilent = true; return true }, "the target runs though the source has run on"},
		{"a refusal is undone without being recorded", func(m *model) bool { m.skipWriteOff = true; return true }, "failed, though no QEMU was killed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := real()
			if !tt.mutate(m) {
				t.Fatal("the tables have changed: there is no such row")
			}
			n, err := m.explore()
			if err == nil {
				t.Fatalf("nothing is noticed in %d states", n)
			}
			if !strings.HasPrefix(err.Error(), tt.says) {
				t.Errorf("%v\nwant %q", err, tt.says)
			}
		})
	}
}
