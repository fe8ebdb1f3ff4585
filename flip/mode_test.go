package flip

import (
	"testing"

	"qlive/vmstate"
)

// What is not built is refused by its name before anything is planned or started.
func TestModeNotBuilt(t *testing.T) {
	for _, mode := range []vmstate.Mode{vmstate.ModeCPR, vmstate.ModePostcopy, "magic"} {
		t.Run(string(mode), func(t *testing.T) {
			h, _, _ := newBare(t, nil)
			h.cfg.Mode, h.cfg.Plan = mode, nil // never asked
			err := h.plan(t.Context())
			if vmstate.KindOf(err) != vmstate.Unsupported {
				t.Errorf("%v", err)
			}
		})
	}
	if err := built(vmstate.ModeShared); err != nil {
		t.Error(err)
	}
}
