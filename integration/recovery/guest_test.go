package recovery_test

import (
	"path/filepath"
	"testing"

	"qlive/integration/env"
	"qlive/integration/lab"
	"qlive/vmstate"
)

// scene is a daemon and a guest that outlives all that is done to it, and so serves one case after the other.
type scene struct {
	*lab.Daemon
	vm     *lab.VM
	public string // a monitor's socket of the user's own
	next   string // a daemon's program that is newer
}

// A guest goes from case to case as the daemon ends, or a QEMU hangs, at rest and in the middle of handoffs. Each case begins with the guest in the oldest QEMU
// and a daemon without failpoints.
func TestOneGuest(t *testing.T) {
	d := lab.NewDaemon(t, lab.DaemonOptions{})
	s := &scene{Daemon: d, public: filepath.Join(d.Dir, "user.sock"), next: lab.BuildProgram(t, "next")}
	s.vm = d.Boot(lab.Spec{Guest: small(), Args: []string{"-qmp", "unix:" + s.public + ",server=on,wait=off"}})
	for _, tt := range []struct {
		name string
		do   func(*testing.T, *scene)
	}{
		{"upgrade of the daemon", upgradeOfTheDaemon},
		{"killed at rest", killedAtRest},
		{"killed in prepared", killedInPrepared},
		{"killed while the guest stands", killedWhileTheGuestStands},
		{"terminated in switching", terminatedInSwitching},
		{"silence ends", silenceEnds},
		{"QEMU hangs", qemuHangs},
		{"resolved to target, the source is dead", sourceDead},
		{"resolved to target, a stranger maps the RAM", strangerMaps},
		{"resolved to source", resolvedToSource},
		{"discarded", discarded}, // the last: nothing is left of the guest
	} {
		if !t.Run(tt.name, func(t *testing.T) { tt.do(t, s.ready(t)) }) {
			t.Fatal("nobody knows how the guest is now")
		}
	}
}

// ready lets a case begin.
func (s *scene) ready(t *testing.T) *scene {
	t.Helper()
	s.SetFailpoints("")
	if !s.Alive() {
		s.Start()
	}
	if s.vm.Show().QEMU.Version != env.Installed {
		s.vm.HandOver(env.Installed, "")
	}
	return s
}

// dies hands the guest over until the daemon dies at a point, and leaves it dead and without failpoints for the next start.
func (s *scene) dies(t *testing.T, point string, way vmstate.Way) (id string) {
	t.Helper()
	s.SetFailpoints(point + "=kill")
	s.Restart()
	id = s.vm.MigrateNoWait(vmstate.MigrationSpec{Binary: s.Env.QEMU(env.Newest), Way: way})
	_ = s.AwaitEnd() // by the failpoint
	s.SetFailpoints("")
	return id
}
