package stage

import (
	"slices"
	"strings"

	"qlive/vmstate"
)

// Course is how a handoff goes. Each comes to failpoints of its own.
type Course struct {
	Mode  vmstate.Mode // shared if empty
	Way   vmstate.Way  // of mode shared
	Moves bool         // of mode shared: guest RAM is moved into other files
}

// String is what the cases of a course are called.
func (c Course) String() string {
	switch {
	case c.Moves:
		return "backing"
	case c.Mode == "" || c.Mode == vmstate.ModeShared:
		return string(c.Way)
	}
	return string(c.Mode)
}

// Courses are all that there are.
func Courses() []Course {
	var list []Course
	for _, way := range vmstate.Ways() {
		list = append(list, Course{Way: way})
	}
	return append(list, Course{Moves: true}, Course{Mode: vmstate.ModeCPR}, Course{Mode: vmstate.ModePostcopy}, Course{Mode: vmstate.ModePrecopy})
}

// steps are those that a handoff takes, in order. A step that has others within it ends in "(", and a word ")" stands for its end.
func (c Course) steps() []string {
	const compare = "verify-mapping compare-blocks compare-devices "
	const prove = compare + "set-capabilities send-ahead "
	const look, proof = "hold last-look ", "last-proof warm-target prime "
	const end = " run-target end-source"
	text := ""
	switch {
	case c.Moves:
		text = "plan inspect-source make-memory start-target " + prove + "lend-memory " + look + proof + "switch( stop save move-memory load )" + end
	case c.Mode == vmstate.ModeCPR:
		text = "plan check-cpr inspect-source set-mode inspect-source-again offer start-target give " + prove + "populate " + look +
			"source-waits last-look-at-blocks " + proof + "switch( stop migrate load )" + end
	case c.Mode == vmstate.ModePostcopy:
		text = "plan inspect-source start-target " + compare + "check-source-memory check-versions set-capabilities send-ahead " + look +
			"last-proof warm-target begin switch run-target( let-go arrive ) receive end-source"
	case c.Mode == vmstate.ModePrecopy:
		text = "plan choose-way inspect-source start-target " + compare + "set-capabilities populate send-ahead " + look + "copy switch( load )" + end // where the guest runs meanwhile
	default:
		inside := map[vmstate.Way]string{vmstate.WayDeviceState: "stop save load", vmstate.WayStopFirst: "stop migrate load", vmstate.WayLive: "look migrate load"}
		text = "plan inspect-source start-target " + prove + "populate " + look + proof + "switch( " + inside[c.Way] + " )" + end
	}
	return strings.Fields(text)
}

// walk tells when each step begins and ends.
func (c Course) walk(begins, ends func(step string)) {
	var open []string
	for _, word := range c.steps() {
		step, outer := strings.CutSuffix(word, "(")
		if word == ")" {
			step = open[len(open)-1]
			open = open[:len(open)-1]
		} else {
			begins(step)
		}
		if outer {
			open = append(open, step)
		} else {
			ends(step)
		}
	}
}

// Steps are the names of the steps of a handoff, in the order of their beginnings.
func (c Course) Steps() (names []string) {
	c.walk(func(step string) { names = append(names, step) }, func(string) {})
	return names
}

// Points are the failpoints that a handoff comes to, in order: both sides of each step. A test compares them with the steps that a handoff
// does take.
func (c Course) Points() (points []string) {
	c.walk(func(step string) { points = append(points, "flip."+step+".before") }, func(step string) { points = append(points, "flip."+step+".after") })
	return points
}

// HasTarget tells whether the target is there at a point.
func HasTarget(point string) bool {
	if point == "flip.start-target.before" {
		return false
	}
	step := strings.TrimSuffix(strings.TrimSuffix(strings.TrimPrefix(point, "flip."), ".before"), ".after")
	return !slices.Contains([]string{"plan", "inspect-source", "check-cpr", "set-mode", "inspect-source-again", "offer", "make-memory", "choose-way"}, step)
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
