package flip

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"qlive/internal/qmp"
	"qlive/internal/scarcity"
	"qlive/vmstate"
)

// A step is one thing that a handoff does. Its undo, if it has one, is registered before do runs, so that a step
// that fails halfway is undone as well; an undo must therefore bear being run after nothing has happened.
type step struct {
	name string
	do   func(context.Context) error
	undo func(context.Context) error
}

// run does the steps in order and stops at the first that fails.
func (h *Handoff) run(ctx context.Context, steps ...step) error {
	for _, s := range steps {
		if err := h.step(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

func (h *Handoff) step(ctx context.Context, s step) (err error) {
	if s.undo != nil {
		h.undos = append(h.undos, s)
	}
	start := time.Now()
	defer func() { h.trace.add(laneHandoff, s.name, start, time.Now(), err) }()
	if err = h.failpoint(ctx, s.name, "before"); err == nil {
		err = s.do(ctx)
	}
	if err == nil {
		err = h.failpoint(ctx, s.name, "after")
	}
	if err != nil {
		return h.explain(ctx, s.name, h.blame(err))
	}
	return nil
}

// blame finds behind an error that somebody has hung up the death of the target, which tells more.
func (h *Handoff) blame(err error) error {
	if h.target == nil || !hungUp(err) || !h.target.EndedSoon() {
		return err
	}
	if h.cfg.Source.ended() || h.cfg.Source.Monitor.Err() != nil {
		return err // it is the source that has ended, and the target with it, by the end of the channel
	}
	return h.target.died("meanwhile")
}

// hungUp tells whether an error may come of the end of a process: of its monitor, its end of the channel, its folder in /proc.
func hungUp(err error) bool {
	return slices.ContainsFunc([]error{qmp.ErrClosed, io.EOF, io.ErrUnexpectedEOF, unix.EPIPE, unix.ECONNRESET, fs.ErrNotExist, unix.ESRCH},
		func(end error) bool { return errors.Is(err, end) })
}

// failpoint is `flip.STEP.before` and `flip.STEP.after`.
func (h *Handoff) failpoint(ctx context.Context, name, side string) error {
	if h.cfg.Failpoints == nil {
		return nil
	}
	return h.cfg.Failpoints.Hit(ctx, "flip."+name+"."+side)
}

// undo runs what has been registered, last first, each in spite of the others' failures, and reports all of them.
func (h *Handoff) undo(ctx context.Context) error {
	var errs []error
	for _, s := range slices.Backward(h.undos) {
		start := time.Now()
		err := s.undo(ctx)
		h.trace.add(laneHandoff, "undo "+s.name, start, time.Now(), err)
		if err != nil {
			errs = append(errs, h.explain(ctx, "undo "+s.name, err))
		}
	}
	h.undos = nil
	return errors.Join(errs...)
}

// explain makes of err a problem that says at which step, of which VM and migration, and in whose words. A context
// that has ended is the cause of what failed by it.
func (h *Handoff) explain(ctx context.Context, name string, err error) error {
	if cause := context.Cause(ctx); cause != nil && errors.Is(err, ctx.Err()) {
		err = cause
	}
	var out vmstate.Error
	if e, ok := errors.AsType[*vmstate.Error](err); ok {
		out = *e
	} else {
		out = vmstate.Error{Kind: vmstate.QEMU, Detail: "cannot " + name + ": " + err.Error(), Err: err}
	}
	if out.Step == "" {
		out.Step = name
	}
	if out.Remedy == "" {
		out.Remedy = "see the migration's trace and the logs of the two QEMUs"
	}
	out.VM, out.Migration = h.cfg.Migration.VM, h.cfg.Migration.ID
	return scarcity.Explain(&out)
}
