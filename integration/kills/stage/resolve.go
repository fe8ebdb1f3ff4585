package stage

import (
	"context"
	"fmt"

	"qlive/vmstate"
)

// resolve decides what the daemon does not, as a person would who knows what has been done: for the target if it lives, else for the source if the
// target was never told to run, else for nobody. What is decided must be among what is offered.
func (s *Stage) resolve(ctx context.Context, g *Guest, blow *Blow, out *Outcome) error {
	d, err := s.Client.Undecided(ctx, g.Name)
	if err != nil {
		return fmt.Errorf("the VM is failed, QEMUs of it live, and nothing can be decided: %w", err)
	}
	allowed := make(map[string]string)
	for _, c := range d.Choices {
		if c.Allowed {
			allowed[c.To] = c.Why
		}
	}
	to := "discard"
	switch {
	case allowed["target"] != "":
		to = "target"
	case allowed["source"] != "" && blow != nil && blow.neverTold():
		to = "source"
	}
	if allowed[to] == "" {
		return fmt.Errorf("the VM is failed, and %s is not offered: %+v", to, d)
	}
	if to == "discard" && (blow == nil || !blow.mayBeLost()) {
		return fmt.Errorf("the VM is failed, its QEMU was not killed, and only its end is offered: %+v", d)
	}
	out.Resolved = to
	vm, err := s.Client.Resolve(ctx, g.Name, to)
	if err != nil {
		return fmt.Errorf("cannot resolve to %s, which is offered: %w", to, err)
	}
	if to == "discard" {
		out.Lost = true
		return s.checkDiscarded(ctx, g)
	}
	if vm, err = s.rest(ctx, g); err != nil {
		return err
	}
	if vm.Status != vmstate.Running {
		return fmt.Errorf("resolved to %s, the VM is %s", to, vm.Status)
	}
	return s.checkRuns(ctx, g, vm)
}

// checkDiscarded makes sure that a guest that is nobody's has no QEMU any more.
func (s *Stage) checkDiscarded(ctx context.Context, g *Guest) error {
	err := Eventually(ctx, "its QEMUs are dead", Limit, func() error {
		if left := g.Living(); len(left) > 0 {
			return fmt.Errorf("%s live", pids(left))
		}
		return nil
	})
	if err != nil {
		return err
	}
	return g.Check()
}
