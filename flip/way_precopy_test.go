package flip

import (
	"testing"

	"pgregory.net/rapid"

	"qlive/vmstate"
)

func TestAllowed(t *testing.T) {
	for name, tt := range map[string]struct {
		rounds  int64
		maximum int
		want    int64
	}{
		"at first":              {1, 1000, 5},
		"patience":              {8, 1000, 5},
		"then twice as long":    {9, 1000, 10},
		"and again":             {11, 1000, 40},
		"half of the longest":   {30, 1000, 500},
		"for ever":              {1 << 40, 1000, 500},
		"never more than half":  {1, 6, 3},
		"QEMU needs some":       {1, 1, 1},
		"an hour":               {100, 3_600_000, 1_800_000},
		"an hour, not too soon": {12, 3_600_000, 80},
	} {
		t.Run(name, func(t *testing.T) {
			if got := allowed(tt.rounds, tt.maximum); got != tt.want {
				t.Errorf("got %d ms, want %d", got, tt.want)
			}
		})
	}
	rapid.Check(t, func(t *rapid.T) {
		rounds, maximum := rapid.Int64Range(0, 1<<50).Draw(t, "rounds"), rapid.IntRange(1, 3_600_000).Draw(t, "maximum")
		got := allowed(rounds, maximum)
		if got < 1 || maximum > 1 && got > int64(maximum)/2 || allowed(rounds+1, maximum) < got {
			t.Errorf("%d ms", got)
		}
	})
}

func TestTimeout(t *testing.T) {
	const gib = 1 << 30
	for name, tt := range map[string]struct {
		spec vmstate.MigrationSpec
		want int
	}{
		"as usual":       {vmstate.MigrationSpec{}, 60},
		"said":           {vmstate.MigrationSpec{TimeoutS: 7, Mode: vmstate.ModePrecopy, Hold: true}, 7},
		"held":           {vmstate.MigrationSpec{Hold: true, Mode: vmstate.ModePrecopy}, 86400},
		"a copy":         {vmstate.MigrationSpec{Mode: vmstate.ModePrecopy}, 60 + 64*16},
		"another is not": {vmstate.MigrationSpec{Mode: vmstate.ModePostcopy}, 60},
	} {
		t.Run(name, func(t *testing.T) {
			if got := tt.spec.Timeout(64 * gib); got != tt.want {
				t.Errorf("got %d s, want %d", got, tt.want)
			}
		})
	}
}
