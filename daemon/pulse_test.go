package daemon

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"qlive/internal/systemd/systemdtest"
	"qlive/vmstate"
)

// supervised is an open daemon whose manager wants to hear of it ten times a second.
func supervised(t *testing.T, m *systemdtest.Manager, cfg Config) *Daemon {
	t.Helper()
	d := New(cfg, Options{Version: "test", Systemd: started(t, m, map[string]string{"WATCHDOG_USEC": "300000"})})
	must(t, d.Open(t.Context()))
	return d
}

// A daemon says that it starts, that it serves, that it is well, and that it stops.
func TestPulse(t *testing.T) {
	m := systemdtest.New(t, "")
	d := supervised(t, m, testConfig(t))
	start := m.Await(t, "EXTEND_TIMEOUT_USEC=30000000")
	if !strings.HasPrefix(start.Value("STATUS"), "starting: ") || start.Has("READY=1") {
		t.Errorf("%+v", start)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- d.Serve(ctx) }()
	m.Await(t, "READY=1")
	for range 3 {
		if beat := m.Await(t, "WATCHDOG=1"); beat.Value("EXTEND_TIMEOUT_USEC") != "" {
			t.Errorf("%+v", beat)
		}
	}
	cancel()
	if stop := m.Await(t, "STOPPING=1"); stop.Value("EXTEND_TIMEOUT_USEC") != "30000000" {
		t.Errorf("%+v", stop)
	}
	must(t, <-served)
	must(t, d.Close(t.Context()))
	if n := len(slices.DeleteFunc(m.Messages(), func(m systemdtest.Message) bool { return !m.Has("STOPPING=1") })); n != 1 {
		t.Errorf("it said %d times that it stops", n)
	}
	if _, err := os.Lstat(d.pulseFile()); !os.IsNotExist(err) {
		t.Errorf("the pulse's file is left: %v", err)
	}
}

// A daemon in which something is stuck is not well, whoever it is, and is again when that goes on. It is while it ends, too.
func TestPulseOfAStuckDaemon(t *testing.T) {
	for name, hold := range map[string]func(d *Daemon) (release func()){
		"table":    func(d *Daemon) func() { d.mu.Lock(); return d.mu.Unlock },
		"registry": func(d *Daemon) func() { d.registry.mu.Lock(); return d.registry.mu.Unlock },
		"hub":      func(d *Daemon) func() { d.hub.mu.Lock(); return d.hub.mu.Unlock },
		"run directory": func(d *Daemon) func() { // a file that takes nothing in
			must(t, unix.Mkfifo(d.pulseFile()+".new", 0o600))
			must(t, os.Rename(d.pulseFile()+".new", d.pulseFile()))
			return func() {
				reader, err := os.OpenFile(d.pulseFile(), os.O_RDWR, 0)
				must(t, err)
				t.Cleanup(func() { reader.Close() })
			}
		},
		"handoff": func(d *Daemon) func() {
			m := vmstate.Migration{ID: "mig-1", VM: "vm1", Phase: vmstate.Switching, StartedAt: time.Now(), Phases: []vmstate.PhaseTime{{Phase: vmstate.Switching, At: time.Now().Add(-time.Hour)}}}
			d.registry.putMigration(m)
			return func() {
				m.Phase = vmstate.RolledBack
				d.registry.putMigration(m)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // each waits for a silence
			m := systemdtest.New(t, "")
			d := supervised(t, m, testConfig(t))
			d.pulse.ready(t.Context(), d.taken)
			m.Await(t, "READY=1")
			m.Await(t, "WATCHDOG=1")
			release := hold(d)
			m.AwaitSilence(t, "WATCHDOG=1", time.Second)
			if name == "handoff" {
				m.Await(t, "STATUS=cannot end switching of mig-1: it has kept vm1 standing for 1h0m0s")
			}
			beats := len(m.Messages())
			release()
			for range 2 {
				m.Await(t, "WATCHDOG=1")
			}
			if len(m.Messages()) <= beats {
				t.Error("it is not well again")
			}
			must(t, d.Close(t.Context()))
		})
	}
}

// A run directory that refuses a file makes the daemon say so, and no restart would help.
func TestPulseWithoutRoom(t *testing.T) {
	m := systemdtest.New(t, "")
	cfg := testConfig(t)
	must(t, os.MkdirAll(filepath.Join(cfg.RunDir, "pulse", "in the way"), 0o700))
	d := supervised(t, m, cfg)
	d.pulse.ready(t.Context(), d.taken)
	m.Await(t, "READY=1")
	for {
		if beat := m.Await(t, "WATCHDOG=1"); strings.Contains(beat.Value("STATUS"), "cannot write into the run directory") {
			break
		}
	}
	must(t, d.Close(t.Context()))
}

func TestOverdue(t *testing.T) {
	now := time.Now()
	for _, c := range []struct {
		name  string
		phase vmstate.Phase
		stood time.Duration
		pause int
		began time.Duration // the daemon, ago
		late  bool
	}{
		{"just begun", vmstate.Switching, time.Second, 0, 24 * time.Hour, false},
		{"long", vmstate.Switching, 121 * time.Second, 0, 24 * time.Hour, true},
		{"long, as it may", vmstate.Switching, 121 * time.Second, 5000, 24 * time.Hour, false},
		{"long in committing", vmstate.Committing, 126 * time.Second, 5000, 24 * time.Hour, true},
		{"an earlier daemon's", vmstate.Committing, time.Hour, 0, 90 * time.Minute, false},
		{"the guest runs before", vmstate.Prepared, time.Hour, 0, 24 * time.Hour, false},
		{"the guest runs after", vmstate.Draining, time.Hour, 0, 24 * time.Hour, false},
		{"over", vmstate.Failed, time.Hour, 0, 24 * time.Hour, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := overdue(vmstate.Migration{
				ID: "mig-1", VM: "vm1", Phase: c.phase, Spec: &vmstate.MigrationSpec{MaxPauseMS: c.pause}, StartedAt: now.Add(-2 * time.Hour),
				Phases: []vmstate.PhaseTime{{Phase: vmstate.Prepared, At: now.Add(-2 * time.Hour)}, {Phase: c.phase, At: now.Add(-c.stood)}},
			}, now.Add(-c.began), now)
			if c.late != (err != nil) {
				t.Error(err)
			}
		})
	}
}
