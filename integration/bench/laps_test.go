package bench

import (
	"maps"
	"testing"

	"qlive/vmstate"
)

func TestTracedLaps(t *testing.T) {
	const trace = `{"traceEvents":[
		{"name":"thread_name","ph":"M","pid":1,"tid":1,"args":{"name":"handoff"}},
		{"name":"stop","ph":"X","pid":1,"tid":1,"ts":100,"dur":50},
		{"name":"stop","ph":"X","pid":1,"tid":2,"ts":105,"dur":900},
		{"name":"save","ph":"X","pid":1,"tid":1,"ts":155,"dur":1000},
		{"name":"load","ph":"X","pid":1,"tid":1,"ts":1160,"dur":840},
		{"name":"RESUME","ph":"i","pid":1,"tid":3,"ts":2050,"s":"t"},
		{"name":"pause","ph":"X","pid":1,"tid":2,"ts":101,"dur":2000}]}`
	for _, tt := range []struct {
		way  vmstate.Way
		want map[string]int64
	}{
		{vmstate.WayDeviceState, map[string]int64{"stop": 49, "save": 1005, "load": 845, "cont": 101}},
		{vmstate.WayStopFirst, map[string]int64{"stop": 49, "load": 1850, "cont": 101}},
		{vmstate.WayLive, map[string]int64{"load": 1899, "cont": 101}},
	} {
		t.Run(string(tt.way), func(t *testing.T) {
			got, err := tracedLaps([]byte(trace), tt.way)
			if err != nil || !maps.Equal(got, tt.want) {
				t.Errorf("got %v, %v, want %v", got, err, tt.want)
			}
		})
	}
	for name, text := range map[string]string{
		"not JSON": `{`, "no pause": `{"traceEvents":[]}`,
		"a step is missing": `{"traceEvents":[{"name":"pause","ph":"X","tid":1,"ts":1,"dur":2}]}`,
	} {
		t.Run(name, func(t *testing.T) {
			if laps, err := tracedLaps([]byte(text), vmstate.WayDeviceState); err == nil {
				t.Errorf("got %v", laps)
			}
		})
	}
}
