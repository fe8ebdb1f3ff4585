package flip

import (
	"qlive/internal/qmp"
	"qlive/vmstate"
)

// precopyWrecks are those of mode precopy, whose source has all of the guest until the target runs, and may have let it go on by itself.
func precopyWrecks() map[string]wreck {
	const run, load, stand = qmp.RunRunning, qmp.RunInMigrate, qmp.RunPaused
	failed := func(s, _ *actor) { s.moves = qmp.MigrationFailed }
	return map[string]wreck{
		"precopy, in the copy": {phase: vmstate.Prepared, mode: vmstate.ModePrecopy, way: vmstate.WayLive, source: run, target: load,
			change: failed, wantEnd: vmstate.RolledBack, keeper: "source", targetDies: true},
		"precopy, in the copy, and the target has ended": {phase: vmstate.Prepared, mode: vmstate.ModePrecopy, way: vmstate.WayLive, source: run,
			change: failed, wantEnd: vmstate.RolledBack, keeper: "source"},
		"precopy, QEMU had stopped the guest, and let it go on": {phase: vmstate.Switching, mode: vmstate.ModePrecopy, way: vmstate.WayLive, source: run, target: load,
			change: failed, wantEnd: vmstate.RolledBack, keeper: "source", targetDies: true},
		"precopy, qlive had stopped the guest": {phase: vmstate.Switching, mode: vmstate.ModePrecopy, way: vmstate.WayStopFirst, source: qmp.RunPostMigrate, target: load,
			change: failed, wantEnd: vmstate.RolledBack, keeper: "source", targetDies: true, sourceTold: []string{"cont in switching"}},
		"precopy, the source had said all before it died": {phase: vmstate.Switching, mode: vmstate.ModePrecopy, way: vmstate.WayStopFirst, target: stand,
			wantEnd: vmstate.Completed, keeper: "target", targetTold: []string{"cont in committing"}},
		"precopy, the source may have gone on before it died": {phase: vmstate.Switching, mode: vmstate.ModePrecopy, way: vmstate.WayLive, target: stand,
			wantEnd: vmstate.Failed, undecided: true},
		"precopy, committed to": {phase: vmstate.Committing, mode: vmstate.ModePrecopy, way: vmstate.WayLive, source: qmp.RunPostMigrate, target: stand,
			change: func(s, t *actor) { s.moves, t.moves = qmp.MigrationCompleted, qmp.MigrationCompleted }, wantEnd: vmstate.Completed, keeper: "target", sourceDies: true,
			targetTold: []string{"cont in committing"}},
	}
}
