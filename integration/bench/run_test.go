package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"qlive/integration/env"
	"qlive/vmstate"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The rows of a real run: every contender hands a real guest over, and says something of each handoff.
func TestRun(t *testing.T) {
	binary := program(t)
	for _, tt := range []struct {
		name       string
		groups     []string
		qlive      string
		count      int
		rows       int
		contenders []Contender
	}{
		{"floors", []string{Ways}, "", 3, 4,
			[]Contender{Floor(vmstate.WayDeviceState), DeviceStateBare, Floor(vmstate.WayStopFirst), Floor(vmstate.WayLive)}},
		{"floors and qlive", []string{Ways}, binary, 2, 7,
			[]Contender{Qlive(vmstate.WayDeviceState), Qlive(vmstate.WayStopFirst), Qlive(vmstate.WayLive)}},
		{"there and back", []string{Versions}, "", 1, 6, []Contender{Floor(vmstate.WayDeviceState)}},
		{"QEMU's own ways", []string{Peers}, "", 1, 6, []Contender{Precopy, PrecopyTuned, CPR}},
		{"readers", []string{Readers}, binary, 1, 3, []Contender{BesideTmpfs, BesideTree, Qlive(vmstate.WayDeviceState)}},
		{"huge pages", []string{Pages}, "", 1, 2, []Contender{Floor(vmstate.WayDeviceState)}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			nothingLeft := ownTemp(t)
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
			defer cancel()
			pool := poolAtRest(t)
			r, err := Run(ctx, Options{Groups: tt.groups, Count: tt.count, Seed: 1, Qlive: tt.qlive, Progress: t.Output()})
			if err != nil {
				t.Fatal(err)
			}
			if len(r.Rows) != tt.rows {
				t.Errorf("%d rows, want %d", len(r.Rows), tt.rows)
			}
			for _, c := range tt.contenders {
				if !slices.ContainsFunc(r.Rows, func(row Row) bool { return row.Contender == c }) {
					t.Errorf("no row of %s", c)
				}
			}
			for _, row := range r.Rows {
				checkRow(t, row, tt.count)
			}
			if now := poolAtRest(t); now != pool {
				t.Errorf("%d huge pages; there were %d", now, pool)
			}
			nothingLeft()
		})
	}
}

// poolAtRest is the pool's size while nobody changes it for a test.
func poolAtRest(t *testing.T) int {
	t.Helper()
	release, err := ReserveHugePages(0)
	if err != nil {
		t.Fatal(err)
	}
	size, err := poolSize()
	if err := errors.Join(err, release()); err != nil {
		t.Fatal(err)
	}
	return size
}

// program builds qlive.
func program(t *testing.T) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "qlive")
	if err := env.Build(t.Context(), binary, "test"); err != nil {
		t.Fatal(err)
	}
	return binary
}

// checkRow looks for members that were not measured. How large they are is not for a test to say, but for what cannot be: a
// pause without time, a guest that did not feel it, a target without memory.
func checkRow(t *testing.T, r Row, count int) {
	t.Helper()
	if r.Count != count || len(r.Samples) != count {
		t.Errorf("%s: %d handoffs, want %d", r.Contender, r.Count, count)
	}
	for i, s := range r.Samples {
		if s.PauseUS <= 0 || s.QEMUPauseUS <= 0 || s.HostGapUS <= 0 || s.GuestGapUS <= 0 || s.TotalUS < s.PauseUS || s.TargetBytes < 1<<20 || s.CPUUS <= 0 {
			t.Errorf("%s, handoff %d: %+v", r.Contender, i, s)
		}
		var sum int64
		for _, us := range s.LapsUS {
			sum += us
		}
		if diff := s.PauseUS - sum; diff < -10 || diff > 10 { // µs are cut off, lap by lap
			t.Errorf("%s, handoff %d: the pieces %v are %d µs, the pause is %d", r.Contender, i, s.LapsUS, sum, s.PauseUS)
		}
	}
}

// ownTemp gives the test a short folder for everything temporary, and returns a check that nothing is left: no process that has
// something to do with it, and no file in it.
func ownTemp(t *testing.T) (nothingLeft func()) {
	t.Helper()
	dir, err := os.MkdirTemp("", "qb")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	t.Setenv("TMPDIR", dir)
	return func() {
		t.Helper()
		processes, err := filepath.Glob("/proc/[0-9]*/cmdline")
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range processes {
			if text, err := os.ReadFile(file); err == nil && strings.Contains(string(text), dir) { // an error: it has ended
				t.Errorf("%s is left: %q", file, text)
			}
		}
		left, err := os.ReadDir(dir)
		if err != nil || len(left) > 0 {
			t.Errorf("left: %v, %v", left, err)
		}
	}
}

// A run that is interrupted, at whatever moment, ends soon and leaves nothing.
func TestRunInterrupted(t *testing.T) {
	binary := program(t)
	for _, tt := range []struct {
		words string        // of the progress
		later time.Duration // after them
	}{
		{"building the guest", 0}, {"[1/2]", 0}, {"[1/2]", time.Second}, {"round", 0}, {"round", 77 * time.Millisecond}, {"round", 160 * time.Millisecond},
	} {
		t.Run(fmt.Sprintf("%s after %s", tt.later, tt.words), func(t *testing.T) {
			nothingLeft := ownTemp(t)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			stop := &cancelAfter{words: tt.words, cancel: func() { time.AfterFunc(tt.later, cancel) }}
			_, err := Run(ctx, Options{Groups: []string{VCPUs}, Count: 1000, Seed: 1, Qlive: binary, Progress: stop, every: time.Second})
			if err == nil || !stop.done {
				t.Errorf("got %v, interrupted %v", err, stop.done)
			}
			nothingLeft()
		})
	}
}

// cancelAfter is a progress that ends the run once it has heard some words.
type cancelAfter struct {
	words  string
	cancel func()
	done   bool
}

func (c *cancelAfter) Write(p []byte) (int, error) {
	if strings.Contains(string(p), c.words) && !c.done {
		c.done = true
		c.cancel()
	}
	return len(p), nil
}

// Only what names the folder is ended.
func TestEndLeftovers(t *testing.T) {
	dir := t.TempDir()
	start := func(arg string) *exec.Cmd {
		c := exec.Command("sh", "-c", "while :; do sleep 1; done", arg)
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
		return c
	}
	ours, other := start(dir+"/socket"), start("elsewhere")
	if err := endLeftovers(dir); err != nil {
		t.Fatal(err)
	}
	if err := ours.Wait(); err == nil || ours.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Errorf("ours: %v", err)
	}
	if err := other.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("other: %v", err)
	}
}
