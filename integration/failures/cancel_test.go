package failures_test

import (
	"testing"

	"qlive/integration/env"
	"qlive/vmstate"
)

// A handoff can be cancelled in each phase before the guest stands, whatever it is doing.
func cancel(t *testing.T, s *scene) {
	tests := []struct {
		point string
		phase vmstate.Phase
	}{
		{"flip.plan.before", vmstate.Planned},
		{"flip.plan.after", vmstate.Planned},
		{"flip.inspect-source.before", vmstate.Preparing},
		{"flip.start-target.before", vmstate.Preparing},
		{"flip.start-target.after", vmstate.Preparing},
		{"flip.send-ahead.before", vmstate.Preparing},
		{"flip.populate.after", vmstate.Preparing},
		{"flip.hold.before", vmstate.Prepared},
		{"flip.last-look.before", vmstate.Prepared},
		{"flip.last-look.after", vmstate.Prepared},
	}
	for i, tt := range tests {
		way := vmstate.Ways()[i%len(vmstate.Ways())]
		t.Run(tt.point, func(t *testing.T) {
			before := s.look(t)
			hits := s.points.Hits(tt.point)
			s.arm(t, tt.point, "block")
			m := s.begin(t, vmstate.MigrationSpec{Binary: s.Env.QEMU(env.Newest), Way: way})
			s.atPoint(t, tt.point, hits)
			s.cancelled(t, m.ID, tt.phase, before)
		})
	}
	slow := []struct {
		name, script string
		phase        vmstate.Phase
	}{
		{"a binary that does not say what it is", "echo $$ >&2; sleep 60", vmstate.Planned},
		{"a target that does not answer", "INCOMING\nsleep 60", vmstate.Preparing},
	}
	for _, tt := range slow {
		t.Run(tt.name, func(t *testing.T) {
			before := s.look(t)
			m := s.begin(t, vmstate.MigrationSpec{Binary: s.script(t, tt.name, env.Newest, tt.script)})
			s.Eventually("the script runs", func() error { return more(before.Processes) })
			s.reach(t, m.ID, tt.phase)
			s.cancelled(t, m.ID, tt.phase, before)
		})
	}
	for _, way := range vmstate.Ways() {
		t.Run("held/"+string(way), func(t *testing.T) {
			before := s.look(t)
			m := s.begin(t, vmstate.MigrationSpec{Binary: s.Env.QEMU(env.Newest), Way: way, Hold: true})
			s.reach(t, m.ID, vmstate.Prepared)
			s.vm.AwaitBeats(20)
			s.cancelled(t, m.ID, vmstate.Prepared, before)
			s.works(t, env.Newest, way)
			s.works(t, env.Installed, way)
		})
	}
}

// cancelled cancels a handoff in a phase, and again once it has ended.
func (s *scene) cancelled(t *testing.T, id string, phase vmstate.Phase, before inventory) {
	t.Helper()
	if _, err := s.Client.Cancel(t.Context(), id); err != nil {
		t.Fatalf("it is not cancelled: %v", err)
	}
	m := s.vm.Wait(id)
	if m.Error == nil || m.Error.Kind() != vmstate.Cancelled || m.Phase != vmstate.Aborted || m.Error.Step == "" || m.Error.Migration != id {
		t.Errorf("it is %s: %+v", m.Phase, m.Error)
	}
	if last := m.Phases[len(m.Phases)-2].Phase; last != phase {
		t.Errorf("it was cancelled in %s, want %s", last, phase)
	}
	if m.PauseUS != nil {
		t.Errorf("the guest stood for %d µs", *m.PauseUS)
	}
	for what, call := range map[string]func() error{
		"cancel":   func() error { _, err := s.Client.Cancel(t.Context(), id); return err },
		"continue": func() error { _, err := s.Client.Continue(t.Context(), id); return err },
	} {
		if p := vmstate.ProblemOf(call()); p.Kind() != vmstate.Conflict || p.Status != 409 {
			t.Errorf("%s after its end: %+v", what, p)
		}
	}
	s.same(t, before)
	s.owned(t)
}

// Once the guest stands it is too late to cancel: the handoff goes on to its end.
func tooLateToCancel(t *testing.T, s *scene) {
	for _, way := range vmstate.Ways() {
		for _, point := range []string{"flip.switch.before", "flip.load.after", "flip.run-target.before", "flip.run-target.after", "flip.end-source.before"} {
			t.Run(string(way)+"/"+point, func(t *testing.T) {
				var answer error
				s.at(t, point, func() error {
					_, answer = s.Client.Cancel(t.Context(), s.vm.Show().Migration)
					return nil
				})
				s.works(t, s.other(), way)
				if p := vmstate.ProblemOf(answer); answer == nil || p.Kind() != vmstate.Conflict || p.Status != 409 || p.Remedy == "" {
					t.Errorf("cancelling at %s: %v", point, answer)
				}
			})
		}
	}
}

// other is the older or the newer QEMU, whichever does not have the guest.
func (s *scene) other() string {
	if s.vm.Show().QEMU.Version == env.Installed {
		return env.Newest
	}
	return env.Installed
}
