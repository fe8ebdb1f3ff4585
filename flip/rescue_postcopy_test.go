package flip

import (
	"qlive/internal/qmp"
	"qlive/vmstate"
)

// postcopyWrecks are those of mode postcopy, where neither QEMU may be ended while pages are on their way.
func postcopyWrecks() map[string]wreck {
	const run, load = qmp.RunRunning, qmp.RunInMigrate
	return map[string]wreck{
		"postcopy, not switched, and the source does nothing": {phase: vmstate.Committing, mode: vmstate.ModePostcopy, way: vmstate.WayStopFirst, source: run, target: load,
			change:  func(s, _ *actor) { s.moves = qmp.MigrationActive },
			wantEnd: vmstate.Failed, undecided: true, targetTold: []string{"cont in committing"}, says: "the source was told to let go of the guest"},
		"postcopy, the source kept the guest": {phase: vmstate.Committing, mode: vmstate.ModePostcopy, way: vmstate.WayStopFirst, source: run,
			change: func(s, _ *actor) { s.moves = qmp.MigrationFailed }, wantEnd: vmstate.RolledBack, keeper: "source"},
		"postcopy, torn as it was switched": {phase: vmstate.Committing, mode: vmstate.ModePostcopy, way: vmstate.WayStopFirst, source: qmp.RunFinishMigrate,
			change: func(s, _ *actor) { s.moves = qmp.MigrationPostcopyPaused }, wantEnd: vmstate.Failed, says: "with it what had come of the guest"},
		"postcopy, daemon dead as it brought the guest back": {phase: vmstate.Committing, mode: vmstate.ModePostcopy, way: vmstate.WayStopFirst, neverRan: true, sent: true, source: qmp.RunPostMigrate,
			change: func(s, _ *actor) { s.moves = qmp.MigrationCompleted }, wantEnd: vmstate.Failed, says: "with it what had come of the guest"},
		"postcopy, brought back": {phase: vmstate.Committing, mode: vmstate.ModePostcopy, way: vmstate.WayStopFirst, neverRan: true, source: qmp.RunPostMigrate,
			change: func(s, _ *actor) { s.moves = qmp.MigrationCompleted }, wantEnd: vmstate.RolledBack, keeper: "source", sourceTold: []string{"cont in committing, never ran"}},
		"postcopy, source dead": {phase: vmstate.Draining, mode: vmstate.ModePostcopy, way: vmstate.WayStopFirst, target: run,
			change: func(_, t *actor) { t.moves = qmp.MigrationPostcopyPaused }, wantEnd: vmstate.Failed, undecided: true, says: "neither QEMU has all of the guest"},
		"postcopy, target dead": {phase: vmstate.Draining, mode: vmstate.ModePostcopy, way: vmstate.WayStopFirst, source: qmp.RunFinishMigrate,
			change: func(s, _ *actor) { s.moves = qmp.MigrationPostcopyPaused }, wantEnd: vmstate.Failed, says: "with it what had come of the guest"},
		"postcopy, both mute while pages came": {phase: vmstate.Draining, mode: vmstate.ModePostcopy, way: vmstate.WayStopFirst, source: "mute", target: "mute",
			wantEnd: vmstate.Failed, undecided: true},
		"postcopy, all came meanwhile": {phase: vmstate.Committed, mode: vmstate.ModePostcopy, way: vmstate.WayStopFirst, source: qmp.RunPostMigrate, target: run,
			change:  func(s, t *actor) { s.moves, t.moves = qmp.MigrationCompleted, qmp.MigrationCompleted },
			wantEnd: vmstate.Completed, keeper: "target", sourceDies: true},
	}
}
