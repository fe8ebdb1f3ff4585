package stage

import (
	"strings"

	"qlive/vmstate"
)

// Points are the failpoints that a handoff comes to by one way, in order: both sides of each step. A test compares them with those that a handoff
// does come to.
func Points(way vmstate.Way) []string {
	inside := map[vmstate.Way]string{
		vmstate.WayDeviceState: "stop save load", vmstate.WayStopFirst: "stop migrate load", vmstate.WayLive: "look migrate load",
	}[way]
	var points []string
	both := func(steps string) {
		for _, step := range strings.Fields(steps) {
			points = append(points, "flip."+step+".before", "flip."+step+".after")
		}
	}
	both("plan inspect-source start-target verify-mapping compare-blocks compare-devices set-capabilities send-ahead populate hold last-look last-proof warm-target prime")
	points = append(points, "flip.switch.before")
	both(inside)
	points = append(points, "flip.switch.after")
	both("run-target end-source")
	return points
}

// HasTarget tells whether the target is there at a point.
func HasTarget(point string) bool {
	switch point {
	case "flip.plan.before", "flip.plan.after", "flip.inspect-source.before", "flip.inspect-source.after", "flip.start-target.before":
		return false
	}
	return true
}

// HasSource tells whether the source is still there at a point.
func HasSource(point string) bool { return point != "flip.end-source.after" }

// Possible tells whether there is anybody to strike.
func (k Strike) Possible() bool {
	switch k.Party {
	case Target:
		return HasTarget(k.Point)
	case Source:
		return HasSource(k.Point)
	}
	return true
}
