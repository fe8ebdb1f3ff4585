package bench

import (
	"encoding/json"
	"fmt"
	"time"

	"qlive/vmstate"
)

// lapNames are the pieces of a pause, in order: until the reply of stop, until the devices are saved (and what is not shared has been
// compared), until the target reports that it has loaded, until the reply of cont.
func lapNames() []string { return []string{"stop", "save", "load", "cont"} }

// lap ends a piece of the pause that began where the last one ended.
func (p *pause) lap(name string) {
	now := time.Now()
	if p.lapsUS == nil {
		p.lapsUS, p.lapped = make(map[string]int64), p.began
	}
	p.lapsUS[name] = now.Sub(p.lapped).Microseconds()
	p.lapped = now
}

// tracedLaps reads the same pieces off the trace of a handoff by qlive: its steps have the same names, and cont is what is left.
func tracedLaps(trace []byte, way vmstate.Way) (map[string]int64, error) {
	var t struct {
		TraceEvents []struct {
			Name    string
			Ph      string
			TID     int
			TS, Dur float64
		}
	}
	if err := json.Unmarshal(trace, &t); err != nil {
		return nil, fmt.Errorf("cannot understand the trace: %w", err)
	}
	ends := make(map[string]float64)
	var start, end float64
	for _, e := range t.TraceEvents {
		if e.Ph != "X" || e.TID != 1 && e.Name != "pause" {
			continue // a command, an instant, or the name of a lane; the pause has one of its own
		}
		ends[e.Name] = e.TS + e.Dur
		if e.Name == "pause" {
			start, end = e.TS, e.TS+e.Dur
		}
	}
	if end == 0 {
		return nil, fmt.Errorf("cannot find the pause in the trace")
	}
	ends["cont"] = end
	laps, last := make(map[string]int64), start
	for _, name := range lapsOf(way) {
		at, ok := ends[name]
		if !ok {
			return nil, fmt.Errorf("cannot find the step %s in the trace", name)
		}
		laps[name], last = int64(at-last), at
	}
	return laps, nil
}

func lapsOf(way vmstate.Way) []string {
	switch all := lapNames(); way {
	case vmstate.WayLive:
		return all[2:]
	case vmstate.WayStopFirst:
		return []string{all[0], all[2], all[3]}
	default:
		return all
	}
}
