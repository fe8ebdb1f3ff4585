package postcopy_test

import (
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"qlive/flip"
	"qlive/integration/env"
	"qlive/integration/guest/beats"
	"qlive/integration/postcopy/stranger"
	"qlive/internal/qmp"
	"qlive/vmstate"
)

// strike is what befalls a target that has been told to run a guest and has not run it yet.
type strike struct {
	name    string
	to      string
	point   string // of the handoff
	do      func(*flip.Side) error
	pauseMS int
	kind    vmstate.Kind
	relay   bool
	before  bool // the guest has not been stopped yet
}

// strikes are those of guests that a QEMU of each version runs.
func strikes() map[string][]strike {
	kill := func(side *flip.Side) error { kill(side); return nil }
	freeze := func(side *flip.Side) error { return unix.Kill(side.Process.PID(), unix.SIGSTOP) }
	killed := func(to string) strike {
		return strike{name: "killed", to: to, point: "flip.let-go.after", do: kill, kind: vmstate.QEMU}
	}
	hangs := func(to string) strike {
		return strike{name: "hangs", to: to, point: "flip.let-go.before", do: freeze, pauseMS: 400, kind: vmstate.Timeout}
	}
	return map[string][]strike{
		env.Installed: {killed(env.Stable), hangs(env.Newest)},
		env.Stable:    {killed(env.Installed), hangs(env.Installed)},
		env.Newest: {killed(env.Installed), hangs(env.Stable),
			{name: "killed behind a relay", to: env.Stable, point: "flip.let-go.after", do: kill, kind: vmstate.QEMU, relay: true},
			{name: "killed as the migration has begun", to: env.Stable, point: "flip.begin.after", do: kill, kind: vmstate.QEMU, before: true},
			{name: "killed as it is committed to", to: env.Stable, point: "flip.run-target.before", do: kill, kind: vmstate.QEMU, before: true},
			{name: "qlive fails", to: env.Stable, point: "flip.begin.after", do: func(*flip.Side) error { return errors.New("no") }, kind: vmstate.QEMU, before: true}},
	}
}

// Until the target runs the guest it may die, hang or be unable to load it: the guest goes on in the source as it was, again and again, and then can be
// handed over.
func TestBroughtBack(t *testing.T) {
	e := locate(t)
	for version, list := range strikes() {
		t.Run("from "+version, func(t *testing.T) {
			s := small(version)
			s.Args = []string{"-device", "virtio-net-pci", "-vga", "std"}
			g := boot(t, e, s)
			before, err := g.Source.Monitor.QueryMigrateParameters(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, strike := range list {
				befall(t, g, strike)
				after, err := g.Source.Monitor.QueryMigrateParameters(t.Context())
				if err != nil || *after.MaxBandwidth != *before.MaxBandwidth || *after.MaxPostcopyBandwidth != *before.MaxPostcopyBandwidth {
					t.Errorf("the source has %+v now, it had %+v (%v)", after, before, err)
				}
			}
			if _, err := move(t, g, env.Installed, stranger.Options{}).Run(t.Context()); err != nil {
				t.Fatal(err)
			}
			unharmed(t, g)
		})
	}
}

// befall lets a handoff be undone, and sees the guest go on in the source.
func befall(t *testing.T, g *stranger.Guest, s strike) {
	t.Helper()
	var m *stranger.Move
	m = move(t, g, s.to, stranger.Options{Relay: s.relay, MaxPauseMS: s.pauseMS, Failpoints: at{s.point, func() error { return s.do(m.Target) }}})
	keeper, err := m.Run(t.Context())
	v := m.Migration()
	if vmstate.KindOf(err) != s.kind || keeper != g.Source || v.Phase != vmstate.RolledBack || (v.PauseUS == nil || v.UndoUS == nil) != s.before {
		t.Fatalf("%s: ended %s, %v; log %+v; source: %q", s.name, v.Phase, err, v.Log, g.Source.Process.Tail(10))
	}
	if !s.before {
		t.Logf("%s, %s: stood for %s, of which %s for the undo: %v", s.name, s.to, time.Duration(*v.PauseUS)*time.Microsecond, time.Duration(*v.UndoUS)*time.Microsecond, err)
	}
	state, err := g.Source.Monitor.QueryStatus(t.Context())
	if err != nil || state.Status != qmp.RunRunning {
		t.Errorf("%s: the source is %s, %v", s.name, state.Status, err)
	}
	now, err := g.Truth()
	if err == nil {
		err = g.Until(t.Context(), "beats on in the source", func(r beats.Report) bool { return r.Beats > now.Beats+20 })
	}
	if err != nil {
		t.Fatal(err)
	}
}
