package flip

import (
	"context"
	"errors"

	"qlive/internal/qmp"
)

// settings are what a source's migrations are set to by its owner: a mode in which QEMU moves RAM changes them for its own, and gives them back.
type settings struct {
	had    qmp.MigrateParameters
	turned map[string]bool // capabilities that were on and would be in the way
}

// inTheWay are capabilities that would send RAM otherwise than in one plain stream, or none of it, or that some version of QEMU does not combine with
// others.
func inTheWay() []string {
	return []string{"x-ignore-shared", "multifd", "mapped-ram", "background-snapshot", "x-colo", "compress", "xbzrle", "postcopy-preempt",
		"pause-before-switchover", "rdma-pin-all", "zero-copy-send", "auto-converge", "dirty-limit", "dirty-bitmaps", "block"}
}

// change switches capabilities of a source and all that is in their way, and sets parameters, once it has noted what they were.
func (s *settings) change(ctx context.Context, h *Handoff, want map[string]bool, to qmp.MigrateParameters) error {
	monitor := h.cfg.Source.Monitor
	params, err := monitor.QueryMigrateParameters(ctx)
	if err != nil {
		return err
	}
	s.had = qmp.MigrateParameters{MaxBandwidth: params.MaxBandwidth, MaxPostcopyBandwidth: params.MaxPostcopyBandwidth, DowntimeLimit: params.DowntimeLimit}
	if s.turned, err = h.only(ctx, h.cfg.Source, want); err != nil {
		return err
	}
	return monitor.MigrateSetParameters(ctx, to)
}

// only switches capabilities of a side, and all that is in their way off. Those that were on are what it gives back.
func (h *Handoff) only(ctx context.Context, side *Side, want map[string]bool) (turned map[string]bool, err error) {
	had, err := side.Monitor.QueryMigrateCapabilities(ctx)
	if err != nil {
		return nil, err
	}
	turned = make(map[string]bool)
	for _, name := range inTheWay() {
		if had[name] {
			turned[name], want[name] = true, false
		}
	}
	return turned, h.capabilities(ctx, side, want)
}

// giveBack sets everything as it was before.
func (s *settings) giveBack(ctx context.Context, monitor *qmp.Client) error {
	var err error
	if len(s.turned) > 0 {
		err = monitor.MigrateSetCapabilities(ctx, s.turned)
	}
	return errors.Join(err, monitor.MigrateSetParameters(ctx, s.had))
}
