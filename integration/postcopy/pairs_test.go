package postcopy_test

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"qlive/integration/env"
	"qlive/integration/guest"
	"qlive/integration/guest/beats"
	"qlive/integration/postcopy/stranger"
	"qlive/internal/qmp"
	"qlive/vmstate"
)

const mib = 1 << 20

// A guest with private RAM that dirties its memory all the time moves from each version and to each version, and loses nothing. With a relay, what it
// has never touched takes no memory afterwards, though it touches more while its pages come.
func TestPairs(t *testing.T) {
	e := locate(t)
	for _, tt := range []struct {
		from, to     string
		relay, early bool // early: the guest is moved as it fills its memory
	}{
		{env.Installed, env.Newest, true, true}, {env.Stable, env.Installed, false, false}, {env.Newest, env.Stable, true, false},
	} {
		t.Run(tt.from+" to "+tt.to, func(t *testing.T) {
			// It fills so much that in the end a third of all is still untouched, however early it is looked at.
			s := stranger.Spec{QEMU: tt.from, MiB: 256, Guest: guest.Params{FillMiB: 64, DirtyMiB: 8, DirtyPPS: 2000, VerifySecs: 1}}
			g := start(t, e, s)
			if err := g.Until(t.Context(), "is there", func(r beats.Report) bool { return len(r.Boots) > 0 }); err != nil {
				t.Fatal(err)
			}
			if !tt.early {
				up(t, g)
			}
			m := move(t, g, tt.to, stranger.Options{Relay: tt.relay})
			peak := watchPeak(t, g, m)
			keeper, err := m.Run(t.Context())
			held := peak()
			if err != nil || keeper == nil || keeper != m.Target {
				t.Fatalf("%v; log %+v; target: %q", err, m.Migration().Log, m.Target.Process.Tail(10))
			}
			checkRelay(t, g, m, tt.relay)
			up(t, g)
			v := m.Migration()
			if v.PauseUS == nil || v.QEMUPause == nil {
				t.Fatalf("nobody knows how long the pause was: %+v", v)
			}
			t.Logf("pause %d µs, by QEMU %d µs, in all %d ms; RAM held at most %d MiB of 256; %d MiB beside", *v.PauseUS, *v.QEMUPause, v.TotalUS/1000, held/mib, v.ExtraBytes/mib)
			if most := uint64(256*mib + 256*mib/10 + 64*mib); held > most {
				t.Errorf("at the peak source and target held %d bytes of guest RAM, at most %d are allowed", held, most)
			}
			if _, over := g.Source.Process.Exited(); !over {
				t.Error("the source has not ended")
			}
			unharmed(t, g)
			checkProgress(t, m)
			on, err := m.Target.Monitor.QueryMigrateCapabilities(t.Context())
			if err != nil || on[qmp.CapPostcopyRAM] || on[qmp.CapReleaseRAM] {
				t.Errorf("the target would be handed over by postcopy again: %v, %v", on, err)
			}
		})
	}
}

// checkProgress makes sure that progress never went back, was seen under way, and came to its end.
func checkProgress(t *testing.T, m *stranger.Move) {
	t.Helper()
	last, between := 0, false
	for _, v := range m.Seen() {
		if v.Progress < last {
			t.Errorf("progress went from %d to %d", last, v.Progress)
		}
		last = v.Progress
		between = between || v.Phase == vmstate.Draining && v.Regions[0].FlippedBytes > 0 && v.Regions[0].FlippedBytes < v.Regions[0].SizeBytes
	}
	if r := m.Migration().Regions[0]; last != 100 || r.State != vmstate.Released || !between {
		t.Errorf("ends with %d %%, region %+v; seen under way: %v", last, r, between)
	}
}

// unharmed lets the guest beat on and verify its memory twice: once begun after now.
func unharmed(t *testing.T, g *stranger.Guest) {
	t.Helper()
	before, err := g.Truth()
	if err == nil {
		err = g.Until(t.Context(), "has verified its memory twice more", func(r beats.Report) bool { return r.Mems >= before.Mems+2 && r.Beats > before.Beats+100 })
	}
	if err != nil {
		t.Fatal(err)
	}
	after, err := g.Truth()
	if err := errors.Join(err, after.Check()); err != nil {
		t.Error(err)
	}
}

func locate(t *testing.T) env.Env {
	t.Helper()
	e, err := env.Locate()
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func start(t *testing.T, e env.Env, s stranger.Spec) *stranger.Guest {
	t.Helper()
	g, err := stranger.Start(t.Context(), e, s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
	return g
}

func boot(t *testing.T, e env.Env, s stranger.Spec) *stranger.Guest {
	t.Helper()
	g := start(t, e, s)
	up(t, g)
	return g
}

func up(t *testing.T, g *stranger.Guest) {
	t.Helper()
	if err := g.Up(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// checkRelay makes sure that there was one if there should be, that it has ended by itself, and that with it what the guest never touched takes no memory.
func checkRelay(t *testing.T, g *stranger.Guest, m *stranger.Move, relay bool) {
	t.Helper()
	owned, err := m.Memory.Regions()[0].AllocatedBytes()
	if err != nil {
		t.Fatal(err)
	}
	if (m.Relay != nil) != relay {
		t.Fatalf("there was a relay: %v", !relay)
	}
	if !relay {
		if owned != 256*mib {
			t.Errorf("without a relay the new memory takes %d bytes", owned)
		}
		return
	}
	said, err := os.ReadFile(g.Path("relay.log"))
	if exit, over := m.Relay.Exited(); err != nil || !over || !exit.Known || exit.Code != 0 || exit.Signal != 0 || strings.Contains(string(said), "none was kept back") {
		t.Errorf("the relay has ended: %v, it %s and has said %q, %v", over, exit, said, err)
	}
	t.Logf("the new memory takes %d MiB: %s", owned/mib, said)
	if owned > 192*mib {
		t.Errorf("of 256 MiB of which the guest has touched at most half the new memory takes %d bytes", owned)
	}
}

func move(t *testing.T, g *stranger.Guest, to string, o stranger.Options) *stranger.Move {
	t.Helper()
	m, err := g.Move(to, o)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// watchPeak samples how much guest RAM the source's private memory and qlive's file hold together. What it returns ends that and tells the most.
func watchPeak(t *testing.T, g *stranger.Guest, m *stranger.Move) func() uint64 {
	t.Helper()
	end, told := make(chan struct{}), make(chan uint64)
	go func() {
		var most uint64
		for {
			if held, err := stranger.Held(g, m); err == nil {
				most = max(most, held)
			}
			select {
			case <-end:
				told <- most
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	}()
	return func() uint64 { close(end); return <-told }
}
