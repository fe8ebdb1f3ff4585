package flip

import (
	"context"

	"qlive/flip/memory/move"
	"qlive/vmstate"
)

// moveBack brings what is in the new RAM back to where the source has it. The table says so only when the target is gone.
func (s *rescue) moveBack(ctx context.Context) error {
	switch {
	case s.unread != nil:
		return s.unread
	case s.r.Memory == nil || s.r.To == nil:
		return vmstate.Errorf(vmstate.Lost, "cannot move the RAM of %s back: nobody has the files of the %s RAM any more", s.m.VM, s.missing()).
			With("the guest cannot go on: discard it, and start the VM anew")
	}
	s.did = append(s.did, "its RAM was moved back")
	cfg := move.Config{Old: s.r.Memory, New: s.r.To, Ledger: s.ledger}
	if s.r.Failpoints != nil {
		cfg.Hit = s.r.Failpoints.Hit
	}
	mover, err := move.New(cfg)
	if err != nil {
		return err
	}
	return mover.Run(ctx, move.InOld)
}

// missing says which RAM is not to be found.
func (s *rescue) missing() string {
	if s.r.Memory == nil {
		return "old"
	}
	return "new"
}

// closeLedger lets go of the ledger. It is of no use any more once the handoff has ended and nothing is left to be decided of it.
func (s *rescue) closeLedger() {
	if s.ledger == nil {
		return
	}
	err := s.ledger.Close()
	if err == nil && s.last.Phase.Ended() && !s.last.Open() {
		err = move.RemoveLedger(s.r.Ledger)
	}
	if err != nil {
		s.logf("%v", err)
	}
}
