package daemon

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"qlive/daemon/record"
	"qlive/fsview"
	"qlive/internal/proc"
	"qlive/internal/qemu"
	"qlive/internal/qemu/cmdline"
	"qlive/restapi"
	"qlive/vmstate"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// testConfig is that of a daemon without a tree.
func testConfig(t *testing.T) Config {
	dir, err := os.MkdirTemp("", "qlive-daemon-") // short enough for a socket
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return Config{Socket: dir + "/sock", Mount: "none", RunDir: dir + "/run", StateDir: dir + "/state"}
}

func open(t *testing.T, cfg Config) *Daemon {
	t.Helper()
	d := New(cfg, Options{Version: "test"})
	must(t, d.Open(t.Context()))
	t.Cleanup(func() { must(t, d.Close(context.Background())) })
	return d
}

// refusedAs checks a refusal that a person reads.
func refusedAs(t *testing.T, err error, kind vmstate.Kind, says ...string) {
	t.Helper()
	p := &vmstate.Problem{}
	if err != nil {
		p = vmstate.ProblemOf(err)
	}
	if err == nil || p.Kind() != kind {
		t.Errorf("got %v of kind %q, want %s", err, p.Kind(), kind)
	}
	for _, text := range says {
		if !strings.Contains(p.Detail+"\n"+p.Remedy, text) {
			t.Errorf("%q is not said in %q, remedy %q", text, p.Detail, p.Remedy)
		}
	}
}

func TestUnknownNames(t *testing.T) {
	d := open(t, testConfig(t))
	ctx := t.Context()
	second := func(_ any, err error) error { return err }
	for name, err := range map[string]error{
		"start":     second(d.StartStoppedVM(ctx, "vm9")),
		"pause":     second(d.PauseVM(ctx, "vm9")),
		"resume":    second(d.ResumeVM(ctx, "vm9")),
		"reset":     second(d.ResetVM(ctx, "vm9")),
		"powerdown": second(d.PowerdownVM(ctx, "vm9")),
		"remove":    d.RemoveVM(ctx, "vm9", restapi.RemoveKill),
		"console":   d.Console("vm9", []byte("x")),
		"migrate":   second(d.Migrate(ctx, vmstate.MigrationSpec{VM: "vm9"})),
		"rollback":  second(d.RollbackVM(ctx, "vm9")),
	} {
		t.Run(name, func(t *testing.T) { refusedAs(t, err, vmstate.NotFound, "vm9", "qlive list") })
	}
	for name, err := range map[string]error{
		"continue": second(d.ContinueMigration(ctx, "mig-9")),
		"cancel":   second(d.CancelMigration(ctx, "mig-9")),
		"trace":    second(d.Trace("mig-9")),
	} {
		t.Run(name, func(t *testing.T) { refusedAs(t, err, vmstate.NotFound, "mig-9", "qlive migration list") })
	}
	for _, verb := range []fsview.Verb{fsview.Migrate, fsview.Rollback, fsview.Cancel, fsview.Continue, fsview.Start, fsview.Pause, fsview.Resume, fsview.Reset, fsview.Powerdown} {
		t.Run("ctl "+string(verb), func(t *testing.T) {
			refusedAs(t, d.Control(ctx, "vm9", fsview.Command{Verb: verb}, fsview.Caller{}), vmstate.NotFound, "vm9")
		})
	}
	refusedAs(t, d.Control(ctx, "vm9", fsview.Command{Verb: "dance"}, fsview.Caller{}), vmstate.Invalid, "dance")
}

// A VM that cannot be started leaves neither its name nor a folder.
func TestStartRefused(t *testing.T) {
	d := open(t, testConfig(t))
	foreign := filepath.Join(t.TempDir(), "qemu")
	must(t, os.WriteFile(foreign, []byte("#!/bin/sh\n"), 0o777))
	must(t, os.Chmod(foreign, 0o777))
	for _, tt := range []struct {
		name string
		spec vmstate.VMSpec
		kind vmstate.Kind
		says string
	}{
		{"no such name", vmstate.VMSpec{Name: "no name", Binary: "/bin/true"}, vmstate.Invalid, "no name"},
		{"a name of the tree's", vmstate.VMSpec{Name: "events", Binary: "/bin/true"}, vmstate.Invalid, "events"},
		{"relative folder", vmstate.VMSpec{Name: "vm1", Binary: "/bin/true", Dir: "here"}, vmstate.Invalid, "here"},
		{"no such binary", vmstate.VMSpec{Name: "vm1", Binary: "/no/such/qemu"}, vmstate.NotFound, "/no/such/qemu"},
		{"a binary that others can write", vmstate.VMSpec{Name: "vm1", Binary: foreign}, vmstate.Denied, foreign},
		{"no QEMU", vmstate.VMSpec{Name: "vm1", Binary: "/bin/true"}, vmstate.QEMU, "/bin/true"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := d.StartVM(t.Context(), tt.spec)
			refusedAs(t, err, tt.kind, tt.says)
			if left, _ := os.ReadDir(filepath.Join(d.cfg.RunDir, "vms")); len(left) > 0 {
				t.Errorf("%v are left", left)
			}
			d.mu.Lock()
			defer d.mu.Unlock()
			if len(d.machines) > 0 {
				t.Errorf("the name is still taken: %v", d.machines)
			}
			if list, err := d.definitions.All(); err != nil || len(list) > 0 {
				t.Errorf("a definition is left: %v, %v", list, err)
			}
		})
	}
}

// Of many who ask for one name at once, one gets it.
func TestReserve(t *testing.T) {
	d := open(t, testConfig(t))
	var all sync.WaitGroup
	results := make(chan error, 20)
	for range cap(results) {
		all.Go(func() { results <- d.reserve("vm1") })
	}
	all.Wait()
	close(results)
	won := 0
	for err := range results {
		if err == nil {
			won++
			continue
		}
		refusedAs(t, err, vmstate.Conflict, "vm1", "being started")
	}
	if won != 1 {
		t.Errorf("%d have the name", won)
	}
	d.mu.Lock()
	delete(d.machines, "vm1")
	d.closing = true
	d.mu.Unlock()
	_, err := d.enter("start vm1")
	refusedAs(t, err, vmstate.Unavailable, "stopping")
}

func TestOneDaemonPerRunDir(t *testing.T) {
	cfg := testConfig(t)
	first := open(t, cfg)
	second := New(cfg, Options{Version: "test"})
	refusedAs(t, second.Open(t.Context()), vmstate.Conflict, cfg.RunDir, "run_dir")
	must(t, first.Close(context.Background()))
	must(t, second.Open(t.Context()))
	must(t, second.Close(context.Background()))
	first.lock = nil // closed
}

func TestOpenRefusesBadConfig(t *testing.T) {
	cfg := testConfig(t)
	cfg.AllowedBinaries = []string{"["}
	refusedAs(t, New(cfg, Options{}).Open(t.Context()), vmstate.Invalid, "[")
	cfg.AllowedBinaries, cfg.RunDir = nil, "run"
	refusedAs(t, New(cfg, Options{}).Open(t.Context()), vmstate.Invalid, "absolute")
}

// Run serves until it is told to end, and leaves no socket.
func TestRun(t *testing.T) {
	cfg := testConfig(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Run(ctx, cfg, Options{Version: "test"}) }()
	deadline := time.Now().Add(30 * time.Second)
	for _, err := os.Stat(cfg.Socket); err != nil; _, err = os.Stat(cfg.Socket) {
		if time.Now().After(deadline) {
			t.Fatalf("there is no socket: %v", err)
		}
		time.Sleep(time.Millisecond)
	}
	refusedAs(t, Run(t.Context(), cfg, Options{Version: "test"}), vmstate.Conflict, cfg.RunDir)
	cancel()
	must(t, <-done)
	if _, err := os.Stat(cfg.Socket); err == nil {
		t.Error("the socket is left")
	}
}

// What an earlier daemon left is cleared away, but not under a QEMU that still runs.
func TestLeftovers(t *testing.T) {
	d := open(t, testConfig(t))
	folder := d.cfg.vmDir("vm1")
	self, err := proc.ReadStat(os.Getpid())
	must(t, err)
	for _, tt := range []struct {
		name    string
		process qemu.Identity
		runs    bool
	}{
		{"of a process that was never started", qemu.Identity{}, false},
		{"of a process that is gone", qemu.Identity{PID: 1 << 30, Start: 1}, false},
		{"of another process with that pid", qemu.Identity{PID: os.Getpid(), Start: 1}, false},
		{"of one that runs", qemu.Identity{PID: os.Getpid(), Start: self.Start}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			must(t, os.MkdirAll(folder, 0o700))
			must(t, record.Write(folder, record.VM{
				Spec: vmstate.VMSpec{Name: "vm1"}, Next: 1, Current: record.None, Generations: []record.Generation{
					{Dir: folder + "/g0", Line: &cmdline.Line{Args: []vmstate.Arg{{Value: "of nobody"}}}, Process: tt.process}},
			}))
			err := d.clearLeftovers("vm1")
			_, there := os.Stat(folder)
			if tt.runs {
				refusedAs(t, err, vmstate.Conflict, fmt.Sprint(os.Getpid()))
			} else {
				must(t, err)
			}
			if (there == nil) != tt.runs {
				t.Errorf("the folder is there: %v", there)
			}
		})
	}
}

func TestNewID(t *testing.T) {
	seen := map[string]bool{}
	var ids []string
	for range 100 {
		id := newID()
		if seen[id] || !strings.HasPrefix(id, "mig-20") || len(id) != len("mig-20060102-150405-abcdef") {
			t.Fatalf("%q, seen: %v", id, seen[id])
		}
		seen[id] = true
		ids = append(ids, id[:len("mig-20060102-150405")])
	}
	if !slices.IsSorted(ids) {
		t.Error("ids do not sort by time")
	}
}
