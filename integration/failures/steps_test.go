package failures_test

import (
	"slices"
	"strings"
	"testing"

	"qlive/vmstate"
)

// Each step of each way fails once, before it does anything and after it has done it, with the older QEMU as the source and with the newer.
// What fails before the target has been told to run is undone, and what fails afterwards changes nothing any more.
func everyStep(t *testing.T, s *scene) {
	for _, way := range vmstate.Ways() {
		t.Run(string(way), func(t *testing.T) {
			points := s.pointsOf(t, s.other(), way)
			t.Logf("%d points: %s", len(points), strings.Join(points, " "))
			for _, must := range []string{"flip.plan.before", "flip.start-target.after", "flip.stop.after", "flip.load.before", "flip.switch.after", "flip.run-target.before"} {
				if !slices.Contains(points, must) && (way != vmstate.WayLive || must != "flip.stop.after") {
					t.Errorf("there is no point %s", must)
				}
			}
			s.failAll(t, points, way)
			s.works(t, s.other(), way)
			s.failAll(t, slices.DeleteFunc(points, whileItRuns), way)
		})
	}
}

// failAll lets each of the points fail.
func (s *scene) failAll(t *testing.T, points []string, way vmstate.Way) {
	from, to := s.vm.Show().QEMU.Version, s.other()
	for _, point := range points {
		if !committed(point) {
			t.Run("from "+from+"/"+point, func(t *testing.T) { s.failAt(t, point, to, way) })
		}
	}
	s.vm.CheckMemory()
	for _, point := range points {
		if committed(point) {
			t.Run("from "+from+"/"+point, func(t *testing.T) { s.failAfterCommit(t, point, s.other(), way) })
		}
	}
}

// whileItRuns tells whether the source runs the guest at a point.
func whileItRuns(point string) bool {
	step := strings.Split(point, ".")[1]
	return !slices.Contains([]string{"last-look", "switch", "stop", "save", "migrate", "load", "run-target"}, step)
}

// committed tells whether the target runs the guest at a point.
func committed(point string) bool {
	return point == "flip.run-target.after" || strings.HasPrefix(point, "flip.end-source.")
}

// pointsOf hands the guest over and returns the failpoints that were reached on the way.
func (s *scene) pointsOf(t *testing.T, version string, way vmstate.Way) []string {
	t.Helper()
	before := map[string]int{}
	for _, p := range s.points.Reached() {
		before[p] = s.points.Hits(p)
	}
	s.works(t, version, way)
	var points []string
	for _, p := range s.points.Reached() {
		if s.points.Hits(p) > before[p] {
			points = append(points, p)
		}
	}
	return points
}

// failAt lets a point fail, which must undo the handoff.
func (s *scene) failAt(t *testing.T, point, version string, way vmstate.Way) {
	step := strings.Split(point, ".")[1]
	s.arm(t, point, "1*error(as the test wants it)")
	m := s.undone(t, vmstate.MigrationSpec{Binary: s.Env.QEMU(version), Way: way}, want{kind: vmstate.QEMU, step: step, says: "as the test wants it"})
	if stood := slices.ContainsFunc(m.Phases, func(p vmstate.PhaseTime) bool { return p.Phase == vmstate.Switching }); stood && m.UndoUS == nil && m.PauseUS != nil {
		t.Errorf("the guest stood for %d µs, and nothing says how long the undo took", *m.PauseUS)
	}
}

// failAfterCommit lets a point fail where the target runs the guest: the handoff completes, and a warning says what happened.
func (s *scene) failAfterCommit(t *testing.T, point, version string, way vmstate.Way) {
	before := s.look(t)
	s.arm(t, point, "1*error(as the test wants it)")
	m := s.vm.Wait(s.begin(t, vmstate.MigrationSpec{Binary: s.Env.QEMU(version), Way: way}).ID)
	if m.Phase != vmstate.Completed || m.Error != nil || !strings.Contains(strings.Join(m.Warnings, "\n"), "as the test wants it") {
		t.Errorf("the migration is %s, warnings %q: %+v", m.Phase, m.Warnings, m.Error)
	}
	now := s.vm.Show()
	if now.PID == before.PID || now.Generation != before.Generation+1 || now.Status != vmstate.Running {
		t.Errorf("the guest is %s in generation %d, pid %d; it was in %d, pid %d", now.Status, now.Generation, now.PID, before.Generation, before.PID)
	}
	if left := children(); !slices.Equal(left, []int{now.PID}) {
		t.Errorf("processes %v run, want %d alone", left, now.PID)
	}
	s.vm.CheckMemory()
}

// arm arms a failpoint for this test.
func (s *scene) arm(t *testing.T, point, terms string) {
	t.Helper()
	if err := s.points.Arm(point, terms); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.points.Func(point, nil) })
}

// at does something each time that a point is reached, in this test.
func (s *scene) at(t *testing.T, point string, f func() error) {
	s.points.Func(point, f)
	t.Cleanup(func() { s.points.Func(point, nil) })
}
