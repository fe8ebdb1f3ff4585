package stage

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"qlive/vmstate"
)

// Outcome is what has become of a guest after a handoff.
type Outcome struct {
	Phase    vmstate.Phase // in which the handoff ended; empty if it had not been written down before its daemon died
	In       Party         // who has the guest; empty if it is lost
	Lost     bool          // the guest runs nowhere any more: its only runner was killed
	Resolved string        // what was decided, where the daemon asked for a decision; empty if it did not
	Why      string        // the daemon's word on a handoff that did not complete, or a guest that is lost
	Took     time.Duration // until it was settled
}

// neverTold tells whether it is certain that the target was not told to run.
func (b *Blow) neverTold() bool {
	switch b.Phase {
	case vmstate.Planned, vmstate.Preparing, vmstate.Prepared, vmstate.Switching:
		return true
	}
	return b.Point == "flip.run-target.before"
}

// mayBeLost tells whether the blow was a death of the QEMU that had the guest, or may have had it.
func (b *Blow) mayBeLost() bool {
	if b.Missed || b.Signal != unix.SIGKILL {
		return false
	}
	switch b.Phase {
	case vmstate.Committing, vmstate.Committed, vmstate.Draining, vmstate.Completed:
		// In postcopy neither has all of the guest until the last page has come.
		return b.Party == Target || b.Party == Source && b.Mode == vmstate.ModePostcopy
	}
	return b.Party == Source
}

// keeper is who has the guest, which runs in one of the two.
func (b *Blow) keeper(g *Guest) Party {
	if living := g.Living(); len(living) == 1 && living[0].PID == b.Source.PID {
		return Source
	}
	return Target
}

// Settle waits until a guest and its last handoff have come to rest, and checks that the guest runs in exactly one QEMU, which is the one that the daemon
// names, and that it goes on undisturbed; or, where its only runner was killed, that the VM is failed and says so. The daemon must be up.
func (s *Stage) Settle(ctx context.Context, g *Guest, blow *Blow) (out Outcome, err error) {
	began := time.Now()
	defer func() {
		out.Took = time.Since(began)
		if err != nil {
			err = fmt.Errorf("%s: %w\n%s", g.Name, err, s.evidence(ctx, g))
		} else if !out.Lost && blow != nil && blow.Source != nil {
			out.In = blow.keeper(g)
		}
	}()
	vm, err := s.settled(ctx, g, blow)
	if err != nil {
		return out, err
	}
	if err := s.readEnd(ctx, g, blow, &out); err != nil {
		return out, err
	}
	if vm.Status == vmstate.Running {
		return out, s.checkRuns(ctx, g, vm)
	}
	if vm.Error != nil {
		out.Why = strings.Join(append([]string{vm.Error.Detail}, vm.Error.QEMU...), "; ")
	}
	if len(g.Living()) > 0 {
		return out, s.resolve(ctx, g, blow, &out)
	}
	if blow == nil || !blow.mayBeLost() {
		return out, fmt.Errorf("the VM is %s, %q, and its QEMU was not killed", vm.Status, out.Why)
	}
	out.Lost = true
	return out, s.checkLost(ctx, g, vm)
}

// settled waits until the VM has come to rest, after a QEMU that has hung until now goes on: what was undecided only because it was silent is decided
// soon then.
func (s *Stage) settled(ctx context.Context, g *Guest, blow *Blow) (vm vmstate.VM, err error) {
	if blow != nil && blow.hung != nil {
		if err := blow.hung.signal(unix.SIGCONT); err != nil {
			return vm, err
		}
	}
	vm, err = s.rest(ctx, g)
	if err != nil || vm.Status != vmstate.Broken || blow == nil || blow.Signal != unix.SIGSTOP || len(g.Living()) == 0 {
		return vm, err
	}
	_ = Eventually(ctx, "it is decided", Limit/4, func() error { // else it is for a person
		if vm, err = s.rest(ctx, g); err == nil && vm.Status == vmstate.Broken {
			return errors.New("it is failed")
		}
		return err
	})
	return vm, err
}

// rest waits until the VM and its handoffs are in a state that stays.
func (s *Stage) rest(ctx context.Context, g *Guest) (vm vmstate.VM, err error) {
	err = Eventually(ctx, "VM and handoff have come to rest", Limit, func() error {
		list, err := s.Client.Migrations(ctx, g.Name)
		if err != nil {
			return err
		}
		if len(list) > 0 && !list[0].Phase.Ended() {
			return fmt.Errorf("migration %s is %s", list[0].ID, list[0].Phase)
		}
		if vm, err = s.Client.VM(ctx, g.Name); err != nil {
			return err
		}
		if vm.Status == vmstate.Migrating || vm.Status == vmstate.Starting || vm.Status == vmstate.Paused {
			return fmt.Errorf("the VM is %s (%s)", vm.Status, vm.RunState)
		}
		if living := g.Living(); vm.Status == vmstate.Running && (len(living) != 1 || living[0].PID != vm.PID) {
			return fmt.Errorf("the VM runs in %d, and %s live", vm.PID, pids(living))
		}
		return nil
	})
	return vm, err
}

// readEnd reads how the handoff that was struck has ended.
func (s *Stage) readEnd(ctx context.Context, g *Guest, blow *Blow, out *Outcome) error {
	if blow == nil || blow.Migration == "" {
		return nil
	}
	m, err := s.Client.Migration(ctx, blow.Migration, 0)
	if err != nil {
		return fmt.Errorf("what became of %s is not told: %w", blow.Migration, err)
	}
	if out.Phase = m.Phase; m.Error != nil {
		out.Why = m.Error.Detail
	}
	if m.Phase != vmstate.Completed && m.Error == nil {
		return fmt.Errorf("migration %s is %s, and no problem says why", m.ID, m.Phase)
	}
	return nil
}

// checkRuns checks a guest that is said to run.
func (s *Stage) checkRuns(ctx context.Context, g *Guest, vm vmstate.VM) error {
	if err := g.GoesOn(ctx); err != nil {
		return err
	}
	if living := g.Living(); len(living) != 1 || living[0].PID != vm.PID {
		return fmt.Errorf("the VM runs in %d, and %s live", vm.PID, pids(living))
	}
	return g.Check()
}

// checkLost checks a guest whose only runner was killed: the VM is failed, the reason names that death, and nothing runs.
func (s *Stage) checkLost(ctx context.Context, g *Guest, vm vmstate.VM) error {
	if vm.Status != vmstate.Broken || vm.Error == nil || vm.Error.Remedy == "" {
		return fmt.Errorf("its only runner was killed, and the VM is %s: %+v", vm.Status, vm.Error)
	}
	beats := g.Beats()
	select {
	case <-time.After(10 * lookEvery):
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if now := g.Beats(); now != beats {
		return errors.New("the VM is failed, and its guest beats")
	}
	return g.Check()
}

func pids(list []*QEMU) string {
	var all []int
	for _, q := range list {
		all = append(all, q.PID)
	}
	return fmt.Sprint(all)
}

// evidence is what is needed to understand a fault.
func (s *Stage) evidence(ctx context.Context, g *Guest) string {
	var b strings.Builder
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), Limit/6) // the daemon may stand
	defer cancel()
	vm, err := s.Client.VM(ctx, g.Name)
	fmt.Fprintf(&b, "VM: %s, %s, pid %d, error %+v (%v)\n", vm.Status, vm.RunState, vm.PID, vm.Error, err)
	for _, q := range g.Living() {
		fmt.Fprintf(&b, "QEMU %d of generation %d lives, hangs: %v\n", q.PID, q.Generation, q.hangs())
	}
	fmt.Fprintf(&b, "check: %v\nlast on the console: %q\n", g.Check(), g.Last())
	b.WriteString(tail(s.vms()+"/"+g.Name+"/journal", 12))
	b.WriteString(s.DaemonLog(25))
	return b.String()
}
