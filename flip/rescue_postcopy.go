package flip

import (
	"context"
	"time"

	"qlive/flip/recovery"
	"qlive/internal/qmp"
	"qlive/vmstate"
)

// defaultBandwidth is QEMU's own max-bandwidth (migration/options.c), bytes/s, for a source whose own nobody remembers.
const defaultBandwidth = 128 << 20

// lookAgain is how often it is looked at whether something has come of a wait.
const lookAgain = 50 * time.Millisecond

// askMoves asks how QEMU's migration stands. One that does not say is not asked again in this look.
func (v *view) askMoves(ctx context.Context) {
	v.moves = ""
	if v.side == nil || v.side.Monitor == nil || v.mute || v.side.ended() {
		return
	}
	m, err := v.side.Monitor.QueryMigrate(ctx)
	if v.silent(ctx, err) == nil {
		v.moves = m.Status
	}
}

// pages tells where the guest's RAM is, from what both say of QEMU's migration. The target's word counts most; where nobody can say, pages are
// still to come, so that nobody is ended who may have some.
func (s *rescue) pages(e recovery.Evidence) recovery.Pages {
	if s.last.Mode == vmstate.ModePostcopy && s.last.Sent { // what it had got back of it was in a daemon that is no more
		return recovery.Cut
	}
	if s.last.Mode != vmstate.ModePostcopy || s.last.Whole || s.last.NeverRan || s.last.Phase.Undoable() && s.last.Phase != vmstate.Committing || s.last.Phase.Ended() && s.last.Phase != vmstate.Failed {
		return recovery.Together
	}
	target, source := s.target.moves, s.source.moves
	if e.Target.Gone() || e.Target == recovery.Mute {
		target = ""
	}
	if e.Source.Gone() || e.Source == recovery.Mute {
		source = ""
	}
	switch {
	case target == qmp.MigrationCompleted || source == qmp.MigrationCompleted:
		return recovery.Together
	case e.Source.Gone() || target == qmp.MigrationPostcopyPaused || source == qmp.MigrationPostcopyPaused:
		return recovery.Cut
	case source == "" && e.Target.Gone() && target == "":
		return recovery.Coming
	case s.early(source):
		return recovery.Unmoved
	case source == qmp.MigrationFailed, e.Target.Gone() && source != "":
		return recovery.Cut
	}
	return recovery.Coming
}

// early tells whether a source whose migration stands so has not let go of its guest.
func (s *rescue) early(source qmp.MigrationStatus) bool {
	switch source {
	case qmp.MigrationNone, qmp.MigrationSetup, qmp.MigrationActive, qmp.MigrationCancelling, qmp.MigrationCancelled:
		return true
	case qmp.MigrationFailed:
		return s.source.side != nil && failsEarly(s.source.side)
	}
	return false
}

// push tells the target to run its guest when it has it, and the source to let go, both of which can be said twice, and waits until something has
// come of it.
func (s *rescue) push(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.contLimit())
	defer cancel()
	if s.last.ranBefore() {
		if err := s.target.silent(ctx, s.target.side.Monitor.Cont(ctx)); err != nil {
			return err
		}
	}
	if s.early(s.source.moves) {
		s.did = append(s.did, "the source was told to let go of the guest")
		if s.last.ranBefore() { // or it would start it by itself if the target fails
			if err := s.source.silent(ctx, s.source.side.Monitor.Stop(ctx)); err != nil {
				return err
			}
		}
		if err := s.source.silent(ctx, s.source.side.Monitor.MigrateStartPostcopy(ctx)); err != nil {
			return err
		}
	}
	return s.wait(ctx, func(e recovery.Evidence) bool {
		return e.Target == recovery.Loading && (e.Pages == recovery.Coming || e.Pages == recovery.Unmoved && e.Source == recovery.Moving)
	})
}

// receive waits while pages come, and records that they all have. There is no limit: the guest runs, and whoever dies or falls silent is seen.
func (s *rescue) receive(ctx context.Context) error {
	if s.last.Phase == vmstate.Committed {
		s.enter(Record{Phase: vmstate.Draining})
	}
	s.did = append(s.did, "the rest of the guest's memory was waited for")
	if side := s.source.side; side != nil && side.Monitor != nil && !s.source.mute && !side.ended() { // it may have been held down until the target ran
		if err := s.source.silent(ctx, side.Monitor.MigrateSetParameters(ctx, qmp.MigrateParameters{MaxPostcopyBandwidth: new(int64)})); err != nil {
			s.logf("the source sends the guest's memory slowly: %v", err)
		}
	}
	err := s.wait(ctx, func(e recovery.Evidence) bool {
		return e.Pages == recovery.Coming && !e.Source.Gone() && !e.Target.Gone() && (e.Source != recovery.Mute || e.Target != recovery.Mute)
	})
	if err == nil && s.last.Phase == vmstate.Draining && s.pages(s.look(ctx)) == recovery.Together {
		s.enter(Record{Phase: vmstate.Draining, Whole: true})
	}
	return err
}

// wait looks again and again while what is seen is as it was.
func (s *rescue) wait(ctx context.Context, same func(recovery.Evidence) bool) error {
	for same(s.look(ctx)) {
		select {
		case <-time.After(lookAgain):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}
