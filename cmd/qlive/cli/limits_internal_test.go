package cli

import (
	"testing"

	"qlive/vmstate"
)

func TestLimitsFlag(t *testing.T) {
	for text, want := range map[string]vmstate.Limits{
		"memory=1":      {MemoryBytes: 1},
		"memory=6G":     {MemoryBytes: 6 << 30},
		"memory=512m":   {MemoryBytes: 512 << 20},
		"memory=2T":     {MemoryBytes: 2 << 40},
		"memory=3k":     {MemoryBytes: 3 << 10},
		"cpu=150%":      {CPUPercent: 150},
		"cpu=50":        {CPUPercent: 50},
		"processes=200": {Processes: 200},
		"oom=-1000":     {OOMScoreAdj: -1000},
	} {
		var f limitsFlag
		if err := f.Set(text); err != nil || f.limits != want {
			t.Errorf("%s: %+v, %v", text, f.limits, err)
		}
	}
	for _, text := range []string{"", "memory", "memory=", "memory=G", "memory=0", "memory=-1", "memory=99999999999T", "memory=1.5G", "cpu=0", "cpu=%", "cpu=x",
		"processes=-1", "processes=9999999999", "oom=1001", "oom=x", "x=1"} {
		var f limitsFlag
		if err := f.Set(text); err == nil {
			t.Errorf("%q: %+v", text, f.limits)
		}
	}
}
