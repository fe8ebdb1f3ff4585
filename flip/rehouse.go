package flip

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"sync"
	"time"

	"qlive/flip/memory"
	"qlive/flip/memory/move"
	"qlive/internal/qmp"
	"qlive/vmstate"
)

// Rehousing changes what guest RAM is made of, as the guest is handed over: the target is started on new files, and what the guest has is moved into
// them while it stands.
type Rehousing struct {
	// Make makes the new RAM, empty, of the same blocks in the same order. The set is the handoff's until it has succeeded, which closes it if it does
	// not; it is the caller's afterwards, as the old one.
	Make   func(context.Context) (*memory.Set, error)
	Ledger string // path of the ledger of what has been moved
	Nodes  []int  // NUMA nodes of the host that the new RAM comes from; any if empty
	// Warnings are what an administrator should know of RAM that this process has filled.
	Warnings []string
}

// rehoused is what a handoff knows of the RAM that it moves.
type rehoused struct {
	set    *memory.Set
	ledger *move.Ledger
	lent   int // descriptors of the new RAM that the source holds for us
}

// rehousedMode is sharedMode for a guest whose RAM is moved into new files while it stands: the target maps those, the source the old ones.
type rehousedMode struct{ sharedMode }

func (m rehousedMode) why() string {
	spec := m.h.cfg.Spec.Memory
	return fmt.Sprintf("guest RAM is qlive's own, and is moved into backing %s while the guest stands; way %s", spec.Backing, m.h.cfg.Way)
}

// ask has the new RAM made: the target is started on it.
func (m rehousedMode) ask() []step {
	return append(m.sharedMode.ask(), step{name: "make-memory", do: m.h.makeMemory, undo: m.h.dropMemory})
}

// prepare leaves out to populate the target's page tables: there is nothing yet that they could point to.
func (m rehousedMode) prepare() []step {
	return append(m.prove(), step{name: "lend-memory", do: m.h.lendMemory, undo: m.h.takeMemoryBack})
}

// memoryOf is the RAM that a side maps.
func (h *Handoff) memoryOf(side *Side) *memory.Set {
	if side == h.target && h.new.set != nil {
		return h.new.set
	}
	return h.cfg.Memory
}

// makeMemory makes the new RAM and its ledger, and refuses if the guest would stand longer than it may.
func (h *Handoff) makeMemory(ctx context.Context) (err error) {
	if h.new.set, err = h.cfg.Rehouse.Make(ctx); err != nil {
		return err
	}
	for _, w := range append(h.new.set.Warnings(), h.cfg.Rehouse.Warnings...) {
		h.warn("%s", w)
	}
	p, err := move.PlanOf(h.cfg.Migration.ID, h.cfg.Memory, h.new.set)
	if err != nil {
		return err
	}
	if h.new.ledger, err = move.CreateLedger(h.cfg.Rehouse.Ledger, p); err != nil {
		return err
	}
	mover, err := h.mover(nil)
	if err != nil {
		return err
	}
	if err := mover.Promise(); err != nil {
		return memory.ExplainShort(err, h.cfg.Migration.VM, mover.InFlightBytes())
	}
	e, err := mover.Estimate(ctx)
	if err != nil {
		return err
	}
	us := e.Time.Microseconds()
	h.change(func(m *vmstate.Migration) { m.EstimateUS = &us })
	h.logf("moving the guest's RAM: %s (seen on %d MiB); %d MiB are held twice at most", e, e.SampleBytes>>20, mover.InFlightBytes()>>20)
	limit := time.Duration(h.cfg.Spec.MaxPauseMS) * time.Millisecond
	if e.Time <= limit {
		return nil
	}
	enough := int(math.Ceil(e.Time.Seconds() * estimateMargin * 1000))
	return vmstate.Errorf(vmstate.Timeout, "cannot move the RAM of %s within max_pause_ms, %d ms: %s, in which the guest stands", h.cfg.Migration.VM, limit.Milliseconds(), e).
		With(fmt.Sprintf("if the guest may stand so long, say so with max_pause_ms (--max-pause) of %d or more", enough))
}

// estimateMargin is how much longer than estimated a move may take on a busy host.
const estimateMargin = 1.5

// dropMemory gives the new RAM up, unless there is something of the guest in it.
func (h *Handoff) dropMemory(context.Context) error {
	if h.away() {
		return nil
	}
	err := errors.Join(h.new.ledger.Close(), h.new.set.Close(), move.RemoveLedger(h.cfg.Rehouse.Ledger))
	h.new = rehoused{}
	return err
}

// lendMemory has the source hold the descriptors of the new RAM as well: whoever else may die while the guest is in both, what it has in the new one is
// found again as long as its QEMU lives. A descriptor given by getfd stays when the monitor's client hangs up.
func (h *Handoff) lendMemory(ctx context.Context) error {
	for _, r := range h.new.set.Regions() {
		if err := h.cfg.Source.Monitor.Getfd(ctx, lentName(h.new.lent), int(r.File().Fd())); err != nil {
			return fmt.Errorf("cannot have the source hold the new RAM: %w", err)
		}
		h.new.lent++
	}
	return nil
}

// takeMemoryBack leaves them where they are as long as they hold some of the guest.
func (h *Handoff) takeMemoryBack(ctx context.Context) error {
	if h.cfg.Source.ended() || h.away() {
		return nil
	}
	if err := takeLentBack(ctx, h.cfg.Source.Monitor, h.new.lent); err != nil {
		h.logf("the source keeps descriptors of the RAM that was made for the target: %v", err)
	}
	return nil
}

func lentName(i int) string { return fmt.Sprintf("qlive-memory-%d", i) }

// takeLentBack lets a source let go of what it was lent.
func takeLentBack(ctx context.Context, monitor *qmp.Client, n int) error {
	var errs []error
	for i := range n {
		errs = append(errs, monitor.Closefd(ctx, lentName(i)))
	}
	return errors.Join(errs...)
}

func (h *Handoff) mover(progress func(string, uint64, uint64)) (*move.Mover, error) {
	cfg := move.Config{Old: h.cfg.Memory, New: h.new.set, Ledger: h.new.ledger, Nodes: h.cfg.Rehouse.Nodes, Progress: progress}
	if h.cfg.Failpoints != nil {
		cfg.Hit = h.cfg.Failpoints.Hit
	}
	return move.New(cfg)
}

// moveMemory moves the RAM. The guest stands, and its devices are saved, so that the source is not needed any more; if the target ends meanwhile it is
// no use to go on.
func (h *Handoff) moveMemory(ctx context.Context) error {
	if err := h.may(vmstate.ActMoveMemory); err != nil {
		return err
	}
	shown := newShown(h)
	mover, err := h.mover(shown.moved)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	var watch sync.WaitGroup
	watch.Go(func() {
		select {
		case <-h.target.Gone():
			cancel(h.target.died("while the guest's RAM was moved"))
		case <-ctx.Done():
		}
	})
	began := time.Now()
	err = mover.Run(ctx, move.InNew)
	cancel(nil)
	watch.Wait()
	h.mu.Lock()
	h.m.ExtraBytes += mover.InFlightBytes()
	h.mu.Unlock()
	if err != nil {
		return err
	}
	h.logf("the guest's RAM was moved in %s", time.Since(began).Round(time.Microsecond))
	if loose := mover.LooseBytes(); loose > 0 {
		h.logf("%d bytes of huge pages could not be kept for the way back: somebody has taken them from the pool", loose)
	}
	return nil
}

// moveMemoryBack brings everything back to where the source has it. The target, which may have begun to load into the new RAM, is dead first.
func (h *Handoff) moveMemoryBack(ctx context.Context) error {
	if err := h.fence(ctx); err != nil {
		return err
	}
	if !h.away() {
		return nil
	}
	mover, err := h.mover(nil)
	if err != nil {
		return err
	}
	began := time.Now()
	if err := mover.Run(ctx, move.InOld); err != nil {
		return err
	}
	h.logf("the guest's RAM was moved back in %s", time.Since(began).Round(time.Microsecond))
	return nil
}

// Away tells, of a handoff that has failed, whether some of the guest's RAM is not where the source has it.
func (h *Handoff) Away() bool { return h.away() }

// away tells whether some of the guest's RAM is not where the source has it.
func (h *Handoff) away() bool { return h.new.ledger != nil && h.new.ledger.Away() }

func (h *Handoff) errAway() *vmstate.Error {
	return vmstate.Errorf(vmstate.Lost, "cannot let %s go on in the source: part of its RAM is in the new backing", h.cfg.Migration.VM).
		With("nothing is lost: see why it could not be moved back, make room, and let `qlive resolve " + h.cfg.Migration.VM + " --to source` move it")
}

// forgetMemory lets go of what only the move itself needs. The ledger goes with the end of the handoff, unless that is for a person to decide.
func (h *Handoff) forgetMemory() {
	if h.new.ledger == nil {
		return
	}
	err := h.new.ledger.Close()
	if h.phase() != vmstate.Failed {
		err = errors.Join(err, move.RemoveLedger(h.cfg.Rehouse.Ledger))
	}
	if err != nil {
		h.logf("the ledger of the guest's RAM: %v", err)
	}
}

// shownEvery is how often the progress of a move is published: the guest stands, and whoever is woken takes a processor from the copying.
const shownEvery = 100 * time.Millisecond

// shown publishes how far a move is.
type shown struct {
	h    *Handoff
	mu   sync.Mutex
	last time.Time
}

func newShown(h *Handoff) *shown { return &shown{h: h, last: time.Now()} }

func (s *shown) moved(region string, there, freed uint64) {
	s.h.observe(region, vmstate.Mapped, 0, 0, there, freed)
	s.mu.Lock()
	due := time.Since(s.last) >= shownEvery
	if due {
		s.last = time.Now()
	}
	s.mu.Unlock()
	if due {
		s.h.publish()
	}
}

// openLedger is the ledger of a migration that was left, if it has moved RAM: none if there is none, or it is another's.
func openLedger(path, migration string) (*move.Ledger, error) {
	if path == "" {
		return nil, nil //nolint:nilnil // none
	}
	l, err := move.OpenLedger(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil //nolint:nilnil // none
	case err != nil:
		return nil, err
	case l.Plan().Migration != migration:
		return nil, l.Close()
	}
	return l, nil
}
