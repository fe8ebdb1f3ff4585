package flip

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"qlive/flip/memory/move"
	"qlive/flip/recovery"
	"qlive/internal/qmp"
	"qlive/vmstate"
)

// rescue is a handoff being taken up again. It does what recovery.Decide says, one thing at a time, and looks again after each; all that
// it knows besides the journal is who has let a deadline pass, so that nobody is waited for twice.
type rescue struct {
	r              Recovery
	last           Record // as the journal has it
	m              vmstate.Migration
	source, target view
	found          string   // what was seen first
	did            []string // what was done about it
	failed         error    // why the last action did not work
	ledger         *move.Ledger
	unread         error // why the ledger cannot be read: then nobody knows where the guest's RAM is
}

// view is one of the two QEMUs as it is seen.
type view struct {
	name    string
	side    *Side
	started bool // there has been such a process
	mute    bool // it has let a deadline pass
	killed  bool // and may not be seen dead yet: a process with SIGKILL pending runs nothing any more
	state   qmp.RunState
	moves   qmp.MigrationStatus // of QEMU's migration, either way, in mode postcopy; empty if it has not said
}

func newRescue(r Recovery) *rescue {
	s := &rescue{r: r}
	if n := len(r.Records); n > 0 {
		s.last = r.Records[n-1]
	}
	s.source = view{name: "source", side: r.Source, started: s.last.Source != ProcessID{}}
	s.target = view{name: "target", side: r.Target, started: s.last.Target != ProcessID{}}
	s.m = remembered(r)
	s.ledger, s.unread = openLedger(r.Ledger, s.last.Migration)
	return s
}

// run does what the table says until it says that nothing is left. No step of it lasts longer than its deadline, so that it comes to an end
// by itself, and is not left in the middle because somebody has lost patience.
func (s *rescue) run(ctx context.Context) Outcome {
	if len(s.r.Records) == 0 {
		return Outcome{Migration: s.m, Err: vmstate.Errorf(vmstate.Internal, "cannot take up a handoff of %s: the journal has no record of one", s.m.VM)}
	}
	s.r.Gate.Lock()
	defer s.r.Gate.Unlock()
	defer s.closeLedger()
	return s.loop(context.WithoutCancel(ctx))
}

func (s *rescue) loop(ctx context.Context) Outcome {
	var was recovery.Evidence
	var did recovery.Action
	for {
		e := s.look(ctx)
		if to := recovery.Obvious(e, s.last.Undecided); s.last.Silent && !s.last.Settled && to != recovery.Undecided {
			s.logf("the one that was silent answers: the guest shall be the %s's", to)
			if err := s.record(s.decided(to)); err == nil {
				continue
			}
		}
		row := recovery.Decide(e)
		if row.Do == did && e == was { // nothing has come of it
			row = recovery.Stuck(e)
		}
		if row.Do == recovery.Nothing || row.Do == recovery.Refuse {
			return s.outcome(e, row)
		}
		s.logf("%s: %s", row.Do, row.Because)
		s.failed = s.step(ctx, row, e)
		if s.failed != nil {
			s.logf("%s did not work: %v", row.Do, s.failed)
		}
		was, did = e, row.Do
	}
}

// step does one thing between its failpoints.
func (s *rescue) step(ctx context.Context, row recovery.Row, e recovery.Evidence) error {
	name := "flip.recover-" + strings.ReplaceAll(string(row.Do), "_", "-")
	if err := s.hit(ctx, name+".before"); err != nil {
		return err
	}
	if err := s.act(ctx, row, e); err != nil {
		return err
	}
	return s.hit(ctx, name+".after")
}

func (s *rescue) hit(ctx context.Context, name string) error {
	if s.r.Failpoints == nil {
		return nil
	}
	return s.r.Failpoints.Hit(ctx, name)
}

func (s *rescue) act(ctx context.Context, row recovery.Row, e recovery.Evidence) error {
	switch row.Do {
	case recovery.Fence:
		s.did = append(s.did, "the target was killed")
		return s.target.side.kill(ctx)
	case recovery.MoveBack:
		return s.moveBack(ctx)
	case recovery.GiveBack:
		return s.giveBack(ctx, e.Ran)
	case recovery.WriteOff:
		return s.record(Record{Phase: vmstate.Committing, NeverRan: true})
	case recovery.Intend:
		return s.record(Record{Phase: vmstate.Committing})
	case recovery.RunTarget:
		return s.runTarget(ctx)
	case recovery.Commit:
		s.enter(Record{Phase: vmstate.Committed})
	case recovery.EndSource:
		return s.endSource(ctx, e)
	case recovery.Complete:
		s.takeBackTarget(ctx)
		s.end(row, e, vmstate.Completed, false)
	case recovery.RollBack:
		s.takeBackSource(ctx)
		s.end(row, e, vmstate.RolledBack, false)
	case recovery.GiveUp:
		s.end(row, e, vmstate.Failed, false)
	case recovery.LeaveOpen:
		s.end(row, e, vmstate.Failed, true)
	case recovery.Push:
		return s.push(ctx)
	case recovery.Receive:
		return s.receive(ctx)
	case recovery.Settle:
		if s.r.To != nil && s.last.Resolve == recovery.ToSource {
			s.takeBackSource(ctx) // what it was lent as long as some of the guest was in it
		}
		s.settle()
	default:
		return vmstate.Errorf(vmstate.Internal, "cannot do %q", row.Do)
	}
	return nil
}

// giveBack lets the source have its guest as it was. The table says so only when the target is gone.
func (s *rescue) giveBack(ctx context.Context, run bool) error {
	monitor := s.source.side.Monitor
	ctx, cancel := context.WithTimeout(ctx, s.contLimit())
	defer cancel()
	if s.last.Way != vmstate.WayDeviceState {
		if err := settleMigration(ctx, monitor); err != nil {
			return s.source.silent(ctx, err)
		}
	}
	state, err := monitor.QueryStatus(ctx)
	if err != nil {
		return s.source.silent(ctx, err)
	}
	if !run || !goesOn(state.Status) || state.Running { // a source that was being moved may have started again by itself
		return nil
	}
	s.did = append(s.did, "the source was told to go on")
	if err := s.source.silent(ctx, monitor.Cont(ctx)); err != nil {
		return fmt.Errorf("cannot let the guest go on in the source: %w", err)
	}
	return nil
}

// runTarget tells the target to run. Its refusal, or its death without RESUME, proves that it has never run: QEMU refuses `cont` in this state only if it
// cannot take the images, and has to take them only if it has not run since it loaded its guest.
func (s *rescue) runTarget(ctx context.Context) error {
	s.did = append(s.did, "the target was told to run")
	ctx, cancel := context.WithTimeout(ctx, s.contLimit())
	defer cancel()
	events := s.target.side.Monitor.Subscribe(qmp.EventResume)
	defer events.Close()
	err := s.target.side.Monitor.Cont(ctx)
	if err == nil {
		return nil
	}
	err = s.target.silent(ctx, s.target.side.proven(ctx, err, events))
	if refusedToRun(err) && s.last.Phase == vmstate.Committing {
		s.did = append(s.did, "the target has not run: "+err.Error())
		return s.record(Record{Phase: vmstate.Committing, NeverRan: true})
	}
	return err
}

// endSource ends a QEMU that has no guest any more, by kill unless it stands with images that it has yet to close.
func (s *rescue) endSource(ctx context.Context, e recovery.Evidence) error {
	if s.last.Phase == vmstate.Committed {
		s.enter(Record{Phase: vmstate.Draining})
	}
	if e.Source.Gone() {
		return nil
	}
	s.did = append(s.did, "the source was ended")
	if e.Source == recovery.Stands && !e.Ran && s.source.side.quit(ctx) {
		return nil
	}
	err := s.source.side.kill(ctx)
	s.source.killed = true
	return err
}

// silent marks a QEMU that has let a deadline pass, or hung up and lives on: it is not asked again. One that hangs up is given time to end.
func (v *view) silent(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, qmp.ErrClosed) {
		select {
		case <-v.side.Gone():
		case <-ctx.Done():
		}
	}
	if _, answered := errors.AsType[*qmp.Error](err); !answered && !v.side.EndedSoon() {
		v.mute = true
	}
	return err
}

func (s *rescue) contLimit() time.Duration { return cmp.Or(s.r.ContLimit, contLimit) }

// takeBackSource takes from the source what it was given for the handoff. It does the guest no harm if that fails.
func (s *rescue) takeBackSource(ctx context.Context) {
	if s.source.side == nil || s.source.side.Monitor == nil || s.source.mute || s.source.side.ended() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, s.answerLimit())
	defer cancel()
	takeBack := takeBackMigration
	switch {
	case s.last.Mode == vmstate.ModePrecopy:
		takeBack = takeBackCopy
	case s.last.Mode == vmstate.ModeCPR:
		takeBack = takeBackCPR
	case s.last.Way == vmstate.WayDeviceState:
		takeBack = takeBackDevices
	}
	err := takeBack(ctx, s.source.side.Monitor)
	if s.last.Mode == vmstate.ModePostcopy {
		err = errors.Join(err, s.source.side.Monitor.MigrateSetParameters(ctx, qmp.MigrateParameters{MaxBandwidth: new(int64(defaultBandwidth)), MaxPostcopyBandwidth: new(int64)}))
	}
	if s.r.To != nil && cmp.Or(s.last.Mode, vmstate.ModeShared) == vmstate.ModeShared {
		err = errors.Join(err, takeLentBack(ctx, s.source.side.Monitor, len(s.r.To.Regions())))
	}
	if err != nil {
		s.logf("the source keeps something of the handoff: %v", err)
	}
}

// takeBackTarget is what the end of Handoff.drain does.
func (s *rescue) takeBackTarget(ctx context.Context) {
	if s.target.side == nil || s.target.side.Monitor == nil || s.target.mute || s.target.side.ended() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, s.answerLimit())
	defer cancel()
	if err := takeBackCapability(ctx, s.target.side.Monitor); err != nil {
		s.logf("the target keeps a capability: %v", err)
	}
}
