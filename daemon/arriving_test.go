package daemon

import (
	"testing"

	"qlive/flip"
	"qlive/vmstate"
)

// The daemon's start waits for no guest whose memory is still on its way.
func TestArriving(t *testing.T) {
	for _, tt := range []struct {
		name string
		last flip.Record
		want bool
	}{
		{"pages come", flip.Record{Mode: vmstate.ModePostcopy, Phase: vmstate.Draining}, true},
		{"about to come", flip.Record{Mode: vmstate.ModePostcopy, Phase: vmstate.Committing}, true},
		{"all have come", flip.Record{Mode: vmstate.ModePostcopy, Phase: vmstate.Draining, Whole: true}, false},
		{"not let go of", flip.Record{Mode: vmstate.ModePostcopy, Phase: vmstate.Switching}, false},
		{"over", flip.Record{Mode: vmstate.ModePostcopy, Phase: vmstate.Completed}, false},
		{"memory stays where it is", flip.Record{Mode: vmstate.ModeShared, Phase: vmstate.Draining}, false},
	} {
		l := &left{history: []*attempt{{records: []flip.Record{tt.last}}}}
		if got := l.arriving(); got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
	if new(left).arriving() {
		t.Error("a VM without handoffs is arriving")
	}
}
