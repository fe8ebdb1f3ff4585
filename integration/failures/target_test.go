package failures_test

import (
	"fmt"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"qlive/integration/env"
	"qlive/integration/lab"
	"qlive/internal/proc"
	"qlive/vmstate"
)

// target is the QEMU that a running handoff has started.
func (s *scene) target(t *testing.T) int {
	t.Helper()
	vm := s.vm.Show()
	m, err := s.Client.Migration(t.Context(), vm.Migration, 0)
	if err != nil {
		t.Fatal(err)
	}
	return m.To.PID
}

// strike sends a signal to the target and waits until it has had its effect.
func (s *scene) strike(t *testing.T, sig unix.Signal) error {
	pid := s.target(t)
	if err := signal(pid, sig); err != nil {
		return err
	}
	for deadline := time.Now().Add(lab.Limit); ; time.Sleep(time.Millisecond) {
		stat, err := proc.ReadStat(pid)
		// A process whose first thread has ended may have others that have not.
		tasks, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
		if err != nil || stat.Ended() && len(tasks) == 1 || sig == unix.SIGSTOP && stat.State == 'T' {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("process %d is still %c", pid, stat.State)
		}
	}
}

// pointsWithTarget are failpoints at which the target is there and does not run the guest, in the order in which they are reached.
func pointsWithTarget(way vmstate.Way) []string {
	points := []string{"flip.verify-mapping.before", "flip.compare-devices.before", "flip.send-ahead.before", "flip.send-ahead.after", "flip.last-look.before",
		"flip.switch.before", "flip.stop.after", "flip.load.before", "flip.load.after", "flip.run-target.before"}
	if way == vmstate.WayLive {
		points[6] = "flip.migrate.before" // QEMU stops the guest
	}
	return points
}

// A target that is killed, wherever it is: the guest goes on in the source.
func targetKilled(t *testing.T, s *scene) {
	for _, way := range vmstate.Ways() {
		for _, point := range pointsWithTarget(way) {
			t.Run(string(way)+"/"+point, func(t *testing.T) {
				hits := s.points.Hits(point)
				s.at(t, point, func() error { return s.strike(t, unix.SIGKILL) })
				m := s.undone(t, vmstate.MigrationSpec{Binary: s.Env.QEMU(env.Newest), Way: way},
					want{kind: vmstate.QEMU, says: "was killed by signal 9", step: anyStep})
				if s.points.Hits(point) == hits {
					t.Errorf("it never came to %s", point)
				}
				t.Logf("undone at %s in %v µs, pause %v µs", m.Error.Step, number(m.UndoUS), number(m.PauseUS))
			})
		}
		t.Run(string(way)+"/held", func(t *testing.T) {
			before := s.look(t)
			m := s.begin(t, vmstate.MigrationSpec{Binary: s.Env.QEMU(env.Newest), Way: way, Hold: true})
			s.reach(t, m.ID, vmstate.Prepared)
			if err := s.strike(t, unix.SIGKILL); err != nil {
				t.Fatal(err)
			}
			want{kind: vmstate.QEMU, says: "was killed by signal 9", step: "hold"}.check(t, s.vm.Wait(m.ID))
			s.same(t, before)
		})
		s.works(t, env.Newest, way)
		s.works(t, env.Installed, way)
	}
}

// A target that hangs while the guest runs elsewhere is given up when timeout_s is over; one that hangs while the guest stands, when
// max_pause_ms is. Then the undo begins, and both times are told.
func targetHangs(t *testing.T, s *scene) {
	for i, way := range vmstate.Ways() {
		for _, point := range []string{[]string{"flip.compare-blocks.before", "flip.set-capabilities.before", "flip.verify-mapping.after"}[i], "flip.send-ahead.before"} {
			t.Run(string(way)+"/"+point, func(t *testing.T) { // before send-ahead they all do the same
				s.at(t, point, func() error { return s.strike(t, unix.SIGSTOP) })
				m := s.undone(t, vmstate.MigrationSpec{Binary: s.Env.QEMU(env.Newest), Way: way, TimeoutS: 1},
					want{kind: vmstate.Timeout, says: "within 1s", step: anyStep})
				if m.PauseUS != nil || m.UndoUS != nil {
					t.Errorf("the guest never stood, and its pause is %v, the undo took %v µs", number(m.PauseUS), number(m.UndoUS))
				}
			})
		}
		points := []string{"flip.switch.before", "flip.stop.after", "flip.load.before"}
		if way != vmstate.WayDeviceState {
			points = []string{"flip.switch.before", "flip.migrate.before"} // afterwards it may have loaded all before it hangs
		}
		for _, point := range points {
			t.Run(string(way)+"/"+point, func(t *testing.T) {
				s.at(t, point, func() error { return s.strike(t, unix.SIGSTOP) })
				const limit = 400 // ms
				m := s.undone(t, vmstate.MigrationSpec{Binary: s.Env.QEMU(env.Newest), Way: way, MaxPauseMS: limit},
					want{kind: vmstate.Timeout, says: "max_pause_ms, 400 ms", step: "load"})
				bothTimes(t, m, limit)
			})
		}
		s.works(t, env.Newest, way)
		s.works(t, env.Installed, way)
	}
}

// bothTimes makes sure that a handoff that was undone at max_pause_ms tells how long the guest stood, and how much of that the undo took.
func bothTimes(t *testing.T, m vmstate.Migration, limitMS int64) {
	t.Helper()
	if m.PauseUS == nil || m.UndoUS == nil {
		t.Fatalf("pause %v µs, undo %v µs: both must be told", number(m.PauseUS), number(m.UndoUS))
	}
	t.Logf("max_pause_ms %d: pause %d µs, of it the undo %d µs", limitMS, *m.PauseUS, *m.UndoUS)
	if slack := int64(100_000); *m.PauseUS < limitMS*1000-slack || *m.UndoUS <= 0 || *m.UndoUS > *m.PauseUS {
		t.Errorf("pause %d µs, undo %d µs with a limit of %d ms", *m.PauseUS, *m.UndoUS, limitMS)
	}
}

// max_pause_ms holds wherever the time goes: up to the decision that the target shall run.
func maxPause(t *testing.T, s *scene) {
	for _, way := range vmstate.Ways() {
		for _, at := range []struct{ point, step string }{{"flip.load.before", "load"}, {"flip.load.after", "load"}, {"flip.switch.after", "switch"}} {
			t.Run(string(way)+"/"+at.point, func(t *testing.T) {
				s.arm(t, at.point, "delay(1m)")
				m := s.undone(t, vmstate.MigrationSpec{Binary: s.Env.QEMU(env.Backport), Way: way, MaxPauseMS: 300},
					want{kind: vmstate.Timeout, says: "max_pause_ms, 300 ms", step: at.step})
				bothTimes(t, m, 300)
			})
		}
		s.works(t, env.Backport, way)
		s.works(t, env.Installed, way)
	}
}

// number shows what may be missing.
func number(n *int64) string {
	if n == nil {
		return "no"
	}
	return fmt.Sprint(*n)
}
