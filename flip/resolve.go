package flip

import (
	"context"
	"slices"

	"qlive/flip/recovery"
	"qlive/vmstate"
)

// resolve journals what a person has decided and does it. What cannot be done is refused before anything is touched.
func (s *rescue) resolve(ctx context.Context, to recovery.Choice) Outcome {
	s.r.Gate.Lock()
	defer s.r.Gate.Unlock()
	defer s.closeLedger()
	ctx = context.WithoutCancel(ctx)
	if err := s.resolvable(ctx, to); err != nil {
		return Outcome{Migration: s.m, Undecided: s.last.Undecided, Err: err}
	}
	if err := s.record(s.decided(to)); err != nil {
		return Outcome{Migration: s.m, Undecided: s.last.Undecided, Err: err}
	}
	s.found = ""
	return s.loop(ctx)
}

func (s *rescue) resolvable(ctx context.Context, to recovery.Choice) error {
	if to == recovery.Undecided || !slices.Contains(recovery.Choices(), to) {
		return vmstate.Errorf(vmstate.Invalid, "cannot resolve %s to %q", s.m.VM, to).With("choose source, target or discard")
	}
	if !s.last.Open() {
		return vmstate.Errorf(vmstate.Conflict, "cannot resolve %s: there is nothing to be decided", s.m.VM).
			With("only a VM whose last handoff has failed can be resolved")
	}
	e := s.look(ctx)
	e.Resolve = to
	if row := recovery.Decide(e); row.Do == recovery.Refuse {
		return vmstate.Errorf(vmstate.Conflict, "cannot resolve %s to %s: %s", s.m.VM, to, row.Because).
			With("`qlive resolve " + s.m.VM + "` shows what can be chosen")
	}
	return nil
}

// options is the evidence and what each choice would do.
func (s *rescue) options(ctx context.Context) Options {
	defer s.closeLedger()
	out := Options{Last: s.last}
	if len(s.r.Records) == 0 {
		return out
	}
	e := s.look(ctx)
	out.Evidence = e
	if !s.last.Open() {
		return out
	}
	for _, to := range []recovery.Choice{recovery.ToSource, recovery.ToTarget, recovery.Discard} {
		e.Resolve = to
		row := recovery.Decide(e)
		out.Choices = append(out.Choices, Option{To: to, Allowed: row.Do != recovery.Refuse, Why: s.effect(e, row)})
	}
	return out
}

// effect says what a choice comes to.
func (s *rescue) effect(e recovery.Evidence, row recovery.Row) string {
	if row.Do == recovery.Refuse {
		return row.Because
	}
	switch e.Resolve {
	case recovery.ToSource:
		if e.Moved {
			return "the target is killed, what was moved of the guest's memory is moved back, and the guest goes on in the source as it was"
		}
		if s.last.ranBefore() && s.last.Undecided {
			return "the target is killed, and the guest goes on in the source; if the target has run it, its memory and disks have moved on from what " +
				"the source's devices know, and it may crash or damage its data"
		}
		return "the target is killed, and the guest goes on in the source as it was"
	case recovery.ToTarget:
		return "the source is killed, and the guest goes on in the target"
	default:
		return "both QEMUs are killed, and the guest is gone"
	}
}
