package soak

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"qlive/integration/kills/stage"
	"qlive/vmstate"
)

// Soak runs epochs on a stage. One goroutine uses it.
type Soak struct {
	stage  *stage.Stage
	seed   uint64
	logf   func(string, ...any)
	guests [2]*stage.Guest // nil where one is needed
	tally  *Tally
}

// New makes a soak on a stage whose daemon does not run.
func New(s *stage.Stage, seed uint64, logf func(string, ...any)) *Soak {
	return &Soak{stage: s, seed: seed, logf: logf, tally: NewTally()}
}

// Tally is what has happened so far.
func (s *Soak) Tally() *Tally { return s.tally }

// Run runs epochs from that number on until so many handoffs were asked for, or enough is closed. A guest that is lost, or found in a wrong
// state, is counted and told, and the run goes on with others.
func (s *Soak) Run(ctx context.Context, from, handoffs int, enough <-chan struct{}) error {
	for number := from; handoffs == 0 || s.tally.Attempted < handoffs; number++ {
		select {
		case <-enough:
			return nil
		default:
		}
		e := NewEpoch(s.seed, number)
		if err := s.within(ctx, e); err != nil {
			s.tally.Lost++
			s.logf("epoch %d (SEED=%d FROM=%d): %s of guest %d, %+v: %v", number, s.seed, number, e.Strike, e.Guest, e.Struck, err)
			if err := s.startOver(ctx); err != nil {
				return err
			}
		}
		if s.tally.Epochs++; s.tally.Epochs%25 == 0 {
			t := s.tally
			s.logf("%v: %d handoffs, %v, %d kills, %d guests, %d lost with their only runner, %d lost otherwise",
				time.Since(t.Began).Round(time.Second), t.Attempted, t.Ends, t.AllKills(), t.Guests, t.LostOnly, t.Lost)
		}
	}
	return nil
}

// epochLimit bounds an epoch, which takes seconds: whoever does not answer by then never will.
const epochLimit = 5 * time.Minute

func (s *Soak) within(ctx context.Context, e Epoch) error {
	ctx, cancel := context.WithTimeout(ctx, epochLimit)
	defer cancel()
	return s.epoch(ctx, e)
}

// epoch is one life of the daemon, and of the next if it is killed.
func (s *Soak) epoch(ctx context.Context, e Epoch) error {
	if err := s.restart(ctx, e); err != nil {
		return err
	}
	for i := range s.guests {
		if err := s.needGuest(ctx, i, e.Shapes[i]); err != nil {
			return err
		}
	}
	if err := s.strike(ctx, e); err != nil {
		return err
	}
	for _, h := range e.Quiet {
		if s.guests[h.Guest] == nil {
			continue
		}
		if err := s.quiet(ctx, h); err != nil {
			return fmt.Errorf("%+v: %w", h, err)
		}
	}
	return s.inspect(ctx, e)
}

// restart ends the daemon at rest and starts one with the strike's failpoints. The guests must not notice.
func (s *Soak) restart(ctx context.Context, e Epoch) error {
	if s.stage.DaemonRuns() {
		if e.Restart == unix.SIGKILL {
			s.tally.AtRest++
		} else {
			s.tally.Stops++
		}
	}
	took, err := s.stage.Restart(ctx, e.Restart, e.Strike.Failpoints(1))
	s.tally.Slowest = max(s.tally.Slowest, took)
	return err
}

func (s *Soak) needGuest(ctx context.Context, i int, shape stage.Shape) (err error) {
	if s.guests[i] != nil {
		return nil
	}
	s.tally.Guests++
	if s.guests[i], err = s.stage.Boot(ctx, shape); err != nil {
		return fmt.Errorf("%+v: %w", shape, err)
	}
	return nil
}

// spec is what is asked for. A handoff that is struck is given up soon.
func (s *Soak) spec(h Handoff, struck bool) vmstate.MigrationSpec {
	spec := vmstate.MigrationSpec{VM: s.guests[h.Guest].Name, Binary: s.stage.Env.QEMU(h.To), Way: h.Way, Hold: h.Cancel, MaxPauseMS: 20_000}
	if struck {
		spec.TimeoutS, spec.MaxPauseMS = 3, 1500
	}
	return spec
}

// strike is the handoff in which somebody is struck, and what follows until all is at rest.
func (s *Soak) strike(ctx context.Context, e Epoch) error {
	g := s.guests[e.Guest]
	company := make(chan string, 1)
	if e.Company {
		s.tally.Attempted++
		spec := s.spec(Handoff{Guest: 1 - e.Guest, To: e.Struck.To, Way: e.Struck.Way}, true)
		go func() {
			m, _ := s.stage.Client.Migrate(ctx, spec, "") // the daemon may die, or be stopped, before it answers
			company <- m.ID
		}()
	} else {
		company <- ""
	}
	s.tally.Attempted++
	blow, err := s.stage.Strike(ctx, g, s.spec(e.Struck, true), e.Strike)
	if err != nil {
		return err
	}
	s.tally.struck(blow)
	if !s.stage.DaemonRuns() {
		took, err := s.stage.StartDaemon(ctx, "")
		if err != nil {
			return err
		}
		s.tally.Slowest = max(s.tally.Slowest, took)
	}
	other := <-company
	for i, guest := range s.guests {
		its := blow
		if i != e.Guest { // it may have been handed over too, or must not have noticed
			its = &stage.Blow{Strike: e.Strike, Migration: other, Missed: true}
		}
		if err := s.settle(ctx, i, guest, its, i == e.Guest || e.Company); err != nil {
			return err
		}
	}
	return nil
}

// settle waits until a guest is at rest, counts how its handoff ended, and lets go of the guest if it is lost.
func (s *Soak) settle(ctx context.Context, i int, g *stage.Guest, blow *stage.Blow, counts bool) error {
	out, err := s.stage.Settle(ctx, g, blow)
	if err != nil {
		return err
	}
	if counts {
		s.tally.ended(out)
	}
	if out.Lost {
		s.logf("%s of %s in %s: lost with its only runner: %s", blow.Strike, g.Name, blow.Phase, out.Why)
		return s.remove(ctx, i)
	}
	return nil
}

// quiet is a handoff that nobody disturbs, or that is cancelled.
func (s *Soak) quiet(ctx context.Context, h Handoff) error {
	g := s.guests[h.Guest]
	s.tally.Attempted++
	if !h.Cancel {
		if err := s.stage.HandOver(ctx, g, s.spec(h, false)); err != nil {
			return err
		}
		s.tally.Ends[vmstate.Completed]++
		return nil
	}
	m, err := s.stage.Client.Migrate(ctx, s.spec(h, false), "")
	if err != nil {
		return err
	}
	err = stage.Eventually(ctx, m.ID+" is held", stage.Limit, func() error {
		now, err := s.stage.Client.Migration(ctx, m.ID, 0)
		if err == nil && now.Phase != vmstate.Prepared {
			err = fmt.Errorf("it is %s", now.Phase)
		}
		return err
	})
	if err != nil {
		return err
	}
	if _, err := s.stage.Client.Cancel(ctx, m.ID); err != nil {
		return err
	}
	out, err := s.stage.Settle(ctx, g, &stage.Blow{Migration: m.ID, Missed: true})
	if err == nil && out.Phase != vmstate.Aborted {
		err = fmt.Errorf("a handoff that was cancelled is %s: %s", out.Phase, out.Why)
	}
	if err == nil {
		s.tally.ended(out)
	}
	return err
}

// inspect lets the guests check their memory, and retires one.
func (s *Soak) inspect(ctx context.Context, e Epoch) error {
	for i, g := range s.guests {
		if g == nil {
			continue
		}
		if e.Verify {
			if err := g.Verify(ctx); err != nil {
				return err
			}
			s.tally.Verified++
		}
		if err := g.Check(); err != nil {
			return err
		}
		if e.Retire && i == e.Guest {
			if err := s.remove(ctx, i); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *Soak) remove(ctx context.Context, i int) error {
	s.tally.Beats += s.guests[i].Beats()
	err := s.stage.Remove(ctx, s.guests[i])
	s.guests[i] = nil
	return err
}

// startOver ends everything after a fault.
func (s *Soak) startOver(ctx context.Context) error {
	for i, g := range s.guests {
		if g != nil {
			s.tally.Beats += g.Beats()
		}
		s.guests[i] = nil
	}
	return s.stage.Clear(ctx)
}

// Finish has the guests that are left check their memory and removes them.
func (s *Soak) Finish(ctx context.Context) error {
	var errs []error
	for i, g := range s.guests {
		if g != nil {
			errs = append(errs, g.Verify(ctx), s.remove(ctx, i))
			s.tally.Verified++
		}
	}
	return errors.Join(errs...)
}
