package postcopy_test

import (
	"os"
	"slices"
	"strings"
	"testing"

	"qlive/integration/env"
	"qlive/integration/guest/beats"
	"qlive/integration/postcopy/stranger"
	"qlive/internal/qemu"
	"qlive/internal/qmp"
	"qlive/vmstate"
)

// What cannot work is found out while the guest runs in its source, and nothing of it has been touched.
func TestRefused(t *testing.T) {
	e := locate(t)
	nobody, err := qemu.LookUpUser("nobody")
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		from, to string
		args     []string
		source   []string
		options  stranger.Options
		kind     vmstate.Kind
		says     string
	}{
		"no right to userfaultfd": {from: env.Installed, to: env.Stable, options: stranger.Options{User: nobody}, kind: vmstate.Unsupported, says: "vm.unprivileged_userfaultfd"},
		"memory that is shared": {from: env.Installed, to: env.Stable, source: []string{"-object", "memory-backend-memfd,id=pc.ram,size=256M", "-machine", "memory-backend=pc.ram"},
			kind: vmstate.Unsupported, says: "is not the source's private memory but memfd"},
		"a device that the target does not load": {from: env.Stable, to: env.Newest, args: []string{"-device", "virtio-rng-pci"}, kind: vmstate.Incompatible, says: "1024 entries"},
	} {
		t.Run(name, func(t *testing.T) {
			g := start(t, e, stranger.Spec{QEMU: tt.from, MiB: 256, Args: tt.args, Source: tt.source})
			if err := os.Chmod(g.Path("."), 0o777); err != nil { // for another user's target
				t.Fatal(err)
			}
			m := move(t, g, tt.to, tt.options)
			keeper, err := m.Run(t.Context())
			v := m.Migration()
			if vmstate.KindOf(err) != tt.kind || keeper != g.Source || v.Phase != vmstate.RolledBack {
				t.Fatalf("ended %s, %v", v.Phase, err)
			}
			if p := vmstate.ProblemOf(err); !strings.Contains(p.Detail+p.Remedy, tt.says) {
				t.Errorf("it says %+v", p)
			}
			if slices.ContainsFunc(v.Phases, func(p vmstate.PhaseTime) bool { return p.Phase == vmstate.Switching }) {
				t.Error("it came to the switch")
			}
			if state, err := g.Source.Monitor.QueryStatus(t.Context()); err != nil || state.Status != qmp.RunRunning {
				t.Errorf("the source is %s, %v", state.Status, err)
			}
		})
	}
}

// A guest that stands is moved, too, stands in the target, and starts there.
func TestPaused(t *testing.T) {
	e := locate(t)
	s := small(env.Newest)
	s.Paused = true
	g := start(t, e, s)
	m := move(t, g, env.Installed, stranger.Options{})
	if keeper, err := m.Run(t.Context()); err != nil || keeper != m.Target {
		t.Fatalf("%v; log %+v", err, m.Migration().Log)
	}
	if state, err := m.Target.Monitor.QueryStatus(t.Context()); err != nil || state.Running || m.Migration().PauseUS != nil {
		t.Errorf("the target is %s, %v; %+v", state.Status, err, m.Migration().PauseUS)
	}
	if err := m.Target.Monitor.Cont(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := g.Until(t.Context(), "has come up", func(r beats.Report) bool { return r.Beats > 100 && r.Mems > 0 }); err != nil {
		t.Fatal(err)
	}
	if r, err := g.Truth(); err != nil || r.Check() != nil {
		t.Error(err, r.Check())
	}
}
