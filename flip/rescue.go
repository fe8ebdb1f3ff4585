package flip

import (
	"context"

	"qlive/flip/recovery"
	"qlive/vmstate"
)

// rescue is a handoff being taken up again.
type rescue struct{ r Recovery }

func newRescue(r Recovery) *rescue { return &rescue{r} }

func (s *rescue) run(context.Context) Outcome { return s.later() }

func (s *rescue) resolve(context.Context, recovery.Choice) Outcome { return s.later() }

func (s *rescue) options(context.Context) Options { return Options{} }

// later leaves everything as it is.
func (s *rescue) later() Outcome {
	return Outcome{Migration: s.r.Migration, Undecided: true,
		Err: vmstate.Errorf(vmstate.Unavailable, "cannot take up the handoff of %s", s.r.Migration.VM)}
}
