package flip

import (
	"testing"

	"qlive/vmstate"
)

// What is not built is refused by its name before anything is planned or started.
func TestModeNotBuilt(t *testing.T) {
	h, _, _ := newBare(t, nil)
	h.cfg.Mode, h.cfg.Plan = "magic", nil // never asked
	if err := h.plan(t.Context()); vmstate.KindOf(err) != vmstate.Unsupported {
		t.Errorf("%v", err)
	}
	for _, mode := range []vmstate.Mode{vmstate.ModeShared, vmstate.ModeCPR, vmstate.ModePostcopy, vmstate.ModePrecopy} {
		if err := built(mode); err != nil {
			t.Error(err)
		}
	}
}
