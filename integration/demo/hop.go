package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"qlive/integration/guest/beats"
	"qlive/vmstate"
)

// hop is one handoff, and what the guest felt of it.
type hop struct {
	from, to  string
	migration vmstate.Migration
	gaps      beats.Gaps
	lost      uint64 // beats
	sum       uint64 // of memory
	checked   bool   // sum was told
}

// hand hands the guest to the next QEMU, and asks the guest how it was.
func (s *show) hand(ctx context.Context, i int, to string) (hop, error) {
	h := hop{from: s.cast.path[i], to: to}
	s.out.text("")
	s.out.text("# %d of %d: from %s to %s", i+1, len(s.cast.path)-1, h.from, h.to)
	before := s.heart.Report()
	s.heart.Window()
	answer, err := s.out.run(ctx, s.place, fmt.Sprintf(`curl -sS --unix-socket %s http://qlive/migrations -d '{"vm":"%s","binary":"%s"}'`, s.place.socket(), vm, s.place.binary(to)))
	if err != nil {
		return h, err
	}
	id, err := accepted(answer)
	if err != nil {
		return h, err
	}
	if err := s.follow(ctx, id, &h); err != nil {
		return h, err
	}
	if err := s.heart.watch(ctx, afterTime); err != nil {
		return h, err
	}
	h.gaps = s.heart.Window()
	if _, err := s.out.run(ctx, s.place, "cat "+s.place.tree(vm, "qemu_version")); err != nil {
		return h, err
	}
	limited, cancel := context.WithTimeout(ctx, beatLimit)
	defer cancel()
	mem, err := s.heart.Verify(limited)
	if err != nil {
		return h, err
	}
	h.sum, h.checked = mem.Sum, true
	h.lost = s.heart.Report().Lost - before.Lost
	return h, nil
}

// accepted is the id of the migration that the daemon has begun, or why it has not.
func accepted(answer string) (string, error) {
	var said struct {
		ID string `json:"id"`
		vmstate.Problem
	}
	if err := json.Unmarshal([]byte(answer), &said); err != nil {
		return "", vmstate.Errorf(vmstate.Internal, "cannot understand the daemon: %.200s", answer)
	}
	if said.ID == "" {
		return "", problem(&said.Problem)
	}
	return said.ID, nil
}

// problem is a problem document as an error.
func problem(p *vmstate.Problem) error {
	return &vmstate.Error{Kind: p.Kind(), Step: p.Step, VM: p.VM, Migration: p.Migration, Detail: p.Detail, Remedy: p.Remedy, Words: p.QEMU}
}

// follow shows a handoff to its end.
func (s *show) follow(ctx context.Context, id string, h *hop) error {
	show := newProgress(s.out)
	for m, err := range s.client.Follow(ctx, id) {
		if err != nil {
			return err
		}
		s.meter.watch(m.From.PID)
		s.meter.watch(m.To.PID)
		h.migration = m
		show.update(m)
	}
	m := h.migration
	show.end(m)
	if m.Phase == vmstate.Completed {
		s.out.text("  %s after %s; the guest stood for %s", m.Phase, milliseconds(time.Duration(m.TotalUS)*time.Microsecond), micros(m.PauseUS))
		return nil
	}
	if m.Error != nil {
		return problem(m.Error)
	}
	return vmstate.Errorf(vmstate.Internal, "cannot hand the guest over: the migration has ended %s", strings.ReplaceAll(string(m.Phase), "_", " "))
}

// micros is a time in milliseconds, as precise as it was measured.
func micros(us *int64) string {
	if us == nil {
		return "-"
	}
	return fmt.Sprintf("%.2f ms", float64(*us)/1000)
}
