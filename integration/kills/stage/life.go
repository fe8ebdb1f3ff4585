package stage

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"qlive/vmstate"
)

// DaemonRuns tells whether there is a daemon.
func (s *Stage) DaemonRuns() bool { return s.daemon != nil && !s.daemon.ended() }

// DaemonPID is the daemon's process.
func (s *Stage) DaemonPID() int { return s.daemon.cmd.Process.Pid }

// Restart ends the daemon, if there is one, by a signal, and starts it with failpoints. It returns how long the start took until it was ready.
func (s *Stage) Restart(ctx context.Context, sig unix.Signal, points string) (time.Duration, error) {
	if s.daemon != nil {
		if err := s.StopDaemon(sig); err != nil {
			return 0, err
		}
	}
	return s.StartDaemon(ctx, points)
}

// HandOver hands a guest over, which must succeed, and sees it go on.
func (s *Stage) HandOver(ctx context.Context, g *Guest, spec vmstate.MigrationSpec) error {
	spec.VM, spec.MaxPauseMS = g.Name, 20_000 // machines are busy
	m, err := s.Client.Migrate(ctx, spec, "")
	if err != nil {
		return fmt.Errorf("cannot begin a handoff of %s: %w", g.Name, err)
	}
	out, err := s.Settle(ctx, g, &Blow{Migration: m.ID, Missed: true})
	if err == nil && out.Phase != vmstate.Completed {
		err = fmt.Errorf("%s: a handoff that nobody disturbed is %s: %s\n%s", g.Name, out.Phase, out.Why, s.evidence(ctx, g))
	}
	return err
}

// Clear ends all guests and the daemon without asking anyone, and forgets what was: the next start begins with an empty run directory.
func (s *Stage) Clear(context.Context) error {
	var errs []error
	if s.daemon != nil {
		errs = append(errs, s.StopDaemon(unix.SIGKILL))
	}
	for _, g := range s.open {
		errs = append(errs, s.drop(g))
	}
	return errors.Join(append(errs, s.forget())...)
}
