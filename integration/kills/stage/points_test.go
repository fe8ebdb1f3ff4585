package stage

import (
	"slices"
	"strings"
	"testing"

	"qlive/vmstate"
)

func TestPoints(t *testing.T) {
	c := Course{Way: vmstate.WayLive}
	steps, points := strings.Join(c.Steps(), " "), strings.Join(c.Points(), " ")
	if want := "prime switch look migrate load run-target end-source"; !strings.HasSuffix(steps, " "+want) {
		t.Errorf("steps are %s, want the end %s", steps, want)
	}
	if want := "flip.switch.before flip.look.before flip.look.after"; !strings.Contains(points, want) {
		t.Errorf("points are %s, want in them %s", points, want)
	}
	for _, c := range Courses() {
		points := c.Points()
		if len(points) != 2*len(c.Steps()) || len(slices.Compact(slices.Sorted(slices.Values(points)))) != len(points) {
			t.Errorf("%s has %d points, with %d steps: %q", c, len(points), len(c.Steps()), points)
		}
		if points[0] != "flip.plan.before" || points[len(points)-1] != "flip.end-source.after" {
			t.Errorf("%s goes from %s to %s", c, points[0], points[len(points)-1])
		}
		// The target is there from one point on.
		for i, point := range points {
			if HasTarget(point) != (i >= slices.Index(points, "flip.start-target.after")) {
				t.Errorf("%s at %s: the target is there: %v", c, point, HasTarget(point))
			}
		}
	}
}
