package flip

import (
	"testing"

	"qlive/vmstate"
)

// What is not built is refused by its name before anything is planned or started.
func TestModeNotBuilt(t *testing.T) {
	for _, mode := range []vmstate.Mode{vmstate.ModePrecopy, "magic"} {
		t.Run(string(mode), func(t *testing.T) {
			h, _, _ := newBare(t, nil)
			h.cfg.Mode, h.cfg.Plan = mode, nil // never asked
			err := h.plan(t.Context())
			if vmstate.KindOf(err) != vmstate.Unsupported {
				t.Errorf("%v", err)
			}
		})
	}
	for _, mode := range []vmstate.Mode{vmstate.ModeShared, vmstate.ModePostcopy} {
		if err := built(mode); err != nil {
			t.Error(err)
		}
	}
}
