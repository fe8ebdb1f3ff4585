package postcopy_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"qlive/flip"
	"qlive/integration/env"
	"qlive/integration/guest"
	"qlive/integration/postcopy/stranger"
	"qlive/internal/qemu"
	"qlive/internal/qmp"
	"qlive/vmstate"
)

// small is a guest that is up soon, and whose pages take a while to come.
func small(version string) stranger.Spec {
	return stranger.Spec{QEMU: version, MiB: 256, Guest: guest.Params{FillMiB: 64, DirtyMiB: 8, VerifySecs: 1}}
}

// at is a failpoint that does something once.
type at struct {
	name string
	do   func() error
}

func (a at) Hit(_ context.Context, name string) error {
	if name == a.name {
		return a.do()
	}
	return nil
}

func kill(side *flip.Side) { end(side.Process) }

func end(p *qemu.Process) {
	_ = p.Kill() // it may have ended
	<-p.Done()
}

// Until the source has let go of the guest, whatever happens to the target undoes the handoff, and leaves nothing behind.
func TestTargetKilledBeforeTheSwitch(t *testing.T) {
	e := locate(t)
	g := boot(t, e, small(env.Newest))
	before, err := g.Source.Monitor.QueryMigrateParameters(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var m *stranger.Move
	for name, o := range map[string]stranger.Options{
		"with a relay": {Relay: true, Recorded: onlyIn(vmstate.Committing, func() { kill(m.Target) })},
		"its relay":    {Relay: true, Recorded: onlyIn(vmstate.Committing, func() { end(m.Relay) })},
	} {
		t.Run(name, func(t *testing.T) {
			m = move(t, g, env.Stable, o)
			keeper, err := m.Run(t.Context())
			if v := m.Migration(); err == nil || keeper != g.Source || v.Phase != vmstate.RolledBack {
				t.Fatalf("ended %s, %v; log %+v", v.Phase, err, v.Log)
			}
			state, err := g.Source.Monitor.QueryStatus(t.Context())
			if err != nil || state.Status != qmp.RunRunning {
				t.Errorf("the source is %s, %v", state.Status, err)
			}
			after, err := g.Source.Monitor.QueryMigrateParameters(t.Context())
			if err != nil || *after.MaxBandwidth != *before.MaxBandwidth || *after.MaxPostcopyBandwidth != *before.MaxPostcopyBandwidth {
				t.Errorf("the source has %+v now, it had %+v (%v)", after, before, err)
			}
		})
	}
	unharmed(t, g)
}

// onlyIn does something once the record of a phase is written, before anything of that phase is done.
func onlyIn(p vmstate.Phase, do func()) func(flip.Record) {
	return func(r flip.Record) {
		if r.Phase == p && !r.NeverRan && !r.Whole {
			do()
		}
	}
}

// checkHolds makes sure that a relay has its two sockets open, and else nothing but its log and what its runtime waits with.
func checkHolds(t *testing.T, pid int) {
	t.Helper()
	open, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil {
		t.Fatal(err)
	}
	sockets := 0
	for _, name := range open {
		is, err := os.Readlink(name)
		switch {
		case err != nil:
			t.Error(err)
		case strings.HasPrefix(is, "socket:"):
			sockets++
		case is != os.DevNull && filepath.Base(is) != "relay.log" && !strings.HasPrefix(is, "anon_inode:[event") && !strings.HasPrefix(is, "/sys/fs/cgroup/cpu"):
			t.Errorf("the relay has %s open", is)
		}
	}
	if sockets != 2 {
		t.Errorf("the relay has %d sockets, of %q", sockets, open)
	}
}

// While pages come, the death of one of the two is the end of the guest, and is said so.
func TestKilledWhilePagesCome(t *testing.T) {
	e := locate(t)
	for name, tt := range map[string]struct {
		kill    func(*stranger.Guest, *stranger.Move)
		open    bool // a person has to say that what is left is to go
		version string
	}{
		"source": {func(g *stranger.Guest, _ *stranger.Move) { kill(g.Source) }, true, env.Newest},
		"target": {func(_ *stranger.Guest, m *stranger.Move) { kill(m.Target) }, false, env.Installed},
		"relay": {func(_ *stranger.Guest, m *stranger.Move) {
			checkHolds(t, m.Relay.PID())
			end(m.Relay)
		}, true, env.Stable},
	} {
		t.Run(name, func(t *testing.T) {
			g := boot(t, e, small(tt.version))
			var m *stranger.Move
			m = move(t, g, env.Stable, stranger.Options{Relay: true, Recorded: onlyIn(vmstate.Draining, func() { tt.kill(g, m) })})
			keeper, err := m.Run(t.Context())
			if v := m.Migration(); vmstate.KindOf(err) != vmstate.Lost || keeper != nil || v.Phase != vmstate.Failed {
				t.Fatalf("ended %s, %v", v.Phase, err)
			}
			t.Logf("%v", err)
			records := m.Records()
			if last := records[len(records)-1]; last.Undecided != tt.open {
				t.Errorf("the journal ends with %+v", last)
			}
			sides := map[string]*flip.Side{"source": g.Source, "target": m.Target}
			delete(sides, name)
			again := records[:len(records)-1] // as if the daemon had died as well, before it could say how it ended
			out := flip.Recover(t.Context(), recovery(again, sides["source"], sides["target"]))
			if out.Migration.Phase != vmstate.Failed || out.Undecided != tt.open || out.Keeper != nil {
				t.Errorf("a daemon that comes after finds %s, undecided %v, keeper %v: %v", out.Migration.Phase, out.Undecided, out.Keeper, out.Err)
			}
			for who, side := range sides { // a target may be looked at; a source has nothing left to look for
				if _, over := side.Process.Exited(); over == (who == "target" || name == "relay") {
					t.Errorf("the %s has ended: %v", who, over)
				}
			}
		})
	}
}
