package kills_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"qlive/integration/env"
	"qlive/integration/guest"
	"qlive/integration/kills/stage"
	"qlive/vmstate"
)

// shape is a small guest with something of everything, which can take a course.
func shape(c stage.Course, version string) stage.Shape {
	s := stage.Shape{QEMU: version, MiB: 256, Args: []string{"-device", "VGA"}, Load: guest.Params{FillMiB: 16, DirtyMiB: 2, VerifySecs: -1}}
	switch c.Mode {
	case vmstate.ModeCPR:
		s.Machine = "pc-q35-7.2,aux-ram-share=on"
	case vmstate.ModePostcopy, vmstate.ModePrecopy:
		s.MiB = 128 // all of it is moved
	}
	return s
}

// kind is what a guest must be like for a course: all of mode shared take the same.
func kind(c stage.Course) vmstate.Mode {
	if c.Mode == "" {
		return vmstate.ModeShared
	}
	return c.Mode
}

// private tells whether a course is for guests that somebody else has started, and that can take it but once.
func private(mode vmstate.Mode) bool {
	return mode == vmstate.ModePostcopy || mode == vmstate.ModePrecopy
}

// version is the n-th that a guest on a course is handed over to: from the oldest that can take it to the newest and back.
func version(c stage.Course, n int) string {
	if c.Mode == vmstate.ModeCPR || c.Mode == vmstate.ModePrecopy { // precopy from an older one is another course: the guest stands
		return []string{env.Backport, env.Newest}[n%2]
	}
	return []string{env.Installed, env.Newest}[n%2]
}

// needGuest sees to it that there is a guest that can take the course.
func (m *matrix) needGuest(ctx context.Context, c stage.Course) (err error) {
	if m.guest != nil && (m.kind != kind(c) || private(m.kind) && !m.guest.Private()) {
		if err := m.Remove(ctx, m.guest); err != nil {
			return err
		}
		m.guest = nil
	}
	if m.guest != nil {
		return nil
	}
	m.boots++
	m.kind = kind(c)
	start := m.Boot
	if private(m.kind) {
		start = m.Adopt
	}
	s := shape(c, version(c, m.at))
	s.Bare = m.bare
	m.guest, err = start(ctx, s)
	return err
}

// spec is a handoff of the guest by a course; by another one if it is in qlive's memory already and cannot take this one any more.
func (m *matrix) spec(ctx context.Context, c stage.Course) (vmstate.MigrationSpec, stage.Course, error) {
	m.at++
	s := vmstate.MigrationSpec{Binary: m.Env.QEMU(version(c, m.at)), Mode: c.Mode, Way: c.Way}
	switch {
	case private(c.Mode) && !m.guest.Private():
		c = stage.Course{Way: vmstate.WayDeviceState}
		s.Mode = ""
	case c.Moves:
		vm, err := m.Client.VM(ctx, m.guest.Name)
		if err != nil {
			return s, c, err
		}
		s.Memory = &vmstate.MemorySpec{Backing: vmstate.Memfd, Nodes: []int{0}} // with nodes it is other memory, even if it is a memfd already
		if m.huge && len(vm.Regions) > 0 && vm.Regions[0].Backing == vmstate.Memfd {
			s.Memory = &vmstate.MemorySpec{Backing: vmstate.Hugetlb}
		}
	}
	return s, c, nil
}

// limits are how long a handoff that is struck may take: short at first, so that who hangs is given up soon.
func limits(c stage.Course) []time.Duration {
	if c.Moves { // the guest stands while its RAM is copied
		return []time.Duration{6 * time.Second, 40 * time.Second}
	}
	return []time.Duration{2 * time.Second, 40 * time.Second}
}

// handOver hands the guest over, undisturbed, and compares the steps that were taken with those that the matrix knows.
func (m *matrix) handOver(ctx context.Context, c stage.Course) error {
	spec, c, err := m.spec(ctx, c)
	if err != nil {
		return err
	}
	if err := m.HandOver(ctx, m.guest, spec); err != nil {
		return err
	}
	if err := m.guest.Verify(ctx); err != nil {
		return err
	}
	taken, err := m.steps(ctx)
	if err == nil && !slices.Equal(taken, c.Steps()) {
		err = fmt.Errorf("by %s the steps are\n%q, known are\n%q", c, taken, c.Steps())
	}
	m.undisturbed[c]++
	return err
}

// steps are those that the guest's last handoff has taken, in the order of their beginnings.
func (m *matrix) steps(ctx context.Context) (names []string, err error) {
	list, err := m.Client.Migrations(ctx, m.guest.Name)
	if err != nil {
		return nil, err
	}
	text, err := m.Client.Trace(ctx, list[0].ID)
	if err != nil {
		return nil, err
	}
	var trace struct {
		Events []struct {
			Name string         `json:"name"`
			Kind string         `json:"ph"`
			Lane int            `json:"tid"`
			Args map[string]any `json:"args"`
		} `json:"traceEvents"`
	}
	if err := json.Unmarshal(text, &trace); err != nil {
		return nil, err
	}
	handoff := 0
	for _, e := range trace.Events {
		switch {
		case e.Kind == "M" && e.Args["name"] == "handoff":
			handoff = e.Lane
		case e.Kind != "M" && e.Lane == handoff && !strings.HasPrefix(e.Name, "phase "):
			names = append(names, e.Name)
		}
	}
	return names, nil
}

// checkCourses makes sure that of each course that was struck a handoff is left alone, too, so that its steps are looked at.
func (m *matrix) checkCourses(t *testing.T) {
	t.Helper()
	for _, c := range stage.Courses() {
		if m.struck[c] == 0 || m.undisturbed[c] > 0 {
			continue
		}
		if err := m.needGuest(t.Context(), c); err != nil {
			m.fail(t, "a guest", err)
		}
		if err := m.handOver(t.Context(), c); err != nil {
			m.fail(t, "a handoff that is left alone", err)
		}
	}
}
