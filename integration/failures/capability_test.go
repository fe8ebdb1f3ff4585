package failures_test

import (
	"testing"

	"qlive/integration/env"
	"qlive/internal/qmp"
	"qlive/vmstate"
)

// A QEMU that will not leave guest RAM out of a migration is found out before the guest stops. Together with postcopy-ram QEMU itself
// refuses to, on both sides.
func capabilityRefused(t *testing.T, s *scene) {
	const words = "Postcopy is not compatible with ignore-shared"
	for _, version := range []string{env.Installed, env.Newest} {
		stubborn := s.script(t, "postcopy"+version, version, `INCOMING
QEMU "$@" -global migration.x-postcopy-ram=on`)
		for _, way := range vmstate.Ways() {
			t.Run("target/"+version+"/"+string(way), func(t *testing.T) {
				s.undone(t, vmstate.MigrationSpec{Binary: stubborn, Way: way}, want{kind: vmstate.QEMU, step: "set-capabilities", says: words})
			})
		}
	}
	for _, way := range []vmstate.Way{vmstate.WayStopFirst, vmstate.WayLive} { // with the third the source migrates nothing
		t.Run("source/"+string(way), func(t *testing.T) {
			monitor := s.monitor(t)
			postcopy := func(on bool) {
				if err := monitor.MigrateSetCapabilities(t.Context(), map[string]bool{"postcopy-ram": on}); err != nil {
					t.Fatal(err)
				}
			}
			postcopy(true) // anew for each: QEMU 7.2 forgets it as it refuses
			s.undone(t, vmstate.MigrationSpec{Binary: s.Env.QEMU(env.Newest), Way: way}, want{kind: vmstate.QEMU, step: "send-ahead", says: words})
			postcopy(false)
			if have, err := monitor.QueryMigrateCapabilities(t.Context()); err != nil || have[qmp.CapIgnoreShared] {
				t.Errorf("the source keeps %s: %v", qmp.CapIgnoreShared, err)
			}
		})
	}
	for _, way := range vmstate.Ways() {
		s.works(t, s.other(), way)
	}
}
