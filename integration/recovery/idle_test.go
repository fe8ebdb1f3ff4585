package recovery_test

import (
	"testing"

	"go.uber.org/goleak"

	"qlive/integration/guest"
	"qlive/integration/lab"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// small is what a guest verifies quickly.
func small() guest.Params { return guest.Params{FillMiB: 16, DirtyMiB: 2, VerifySecs: -1} }

// The guest beats on while its daemon is dead.
func TestNoDaemon(t *testing.T) {
	d := lab.NewDaemon(t, lab.DaemonOptions{})
	vm := d.Boot(lab.Spec{Guest: small()})
	d.Kill()
	vm.AwaitBeats(500)
	vm.CheckTruth()
}
