package kills_test

import (
	"slices"
	"strings"
	"testing"

	"qlive/integration/env"
	"qlive/integration/guest"
	"qlive/integration/kills/stage"
	"qlive/integration/lab"
	"qlive/internal/failpoint"
	"qlive/vmstate"
)

// The matrix knows every failpoint that a handoff comes to.
func TestPoints(t *testing.T) {
	points, err := failpoint.New("")
	if err != nil {
		t.Fatal(err)
	}
	l := lab.New(t, lab.Options{Failpoints: points, NoTree: true})
	vm := l.Boot(lab.Spec{Guest: guest.Params{FillMiB: 16, VerifySecs: -1}})
	before := make(map[string]int)
	for i, way := range vmstate.Ways() {
		vm.HandOver([]string{env.Newest, env.Installed}[i%2], way)
		var reached []string
		for _, p := range points.Reached() {
			if strings.HasPrefix(p, "flip.") && points.Hits(p) > before[p] {
				reached = append(reached, p)
			}
			before[p] = points.Hits(p)
		}
		known := slices.Sorted(slices.Values(stage.Points(way)))
		if !slices.Equal(known, reached) {
			t.Errorf("%s: known are\n%q, reached\n%q", way, known, reached)
		}
	}
}
