package flip

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"qlive/flip/recovery"
	"qlive/internal/failpoint"
	"qlive/internal/qemu"
	"qlive/internal/qmp"
	"qlive/internal/qmp/qmptest"
	"qlive/vmstate"
)

// actor is a QEMU that is none: a process that sleeps, and a monitor that knows a few run states.
type actor struct {
	name    string
	journal *notes
	process *qemu.Process

	mu      sync.Mutex
	state   qmp.RunState
	moves   qmp.MigrationStatus // of its own migration
	refuses string              // what it says to cont
	hangs   string              // the command that it does not answer any more
	said    []string            // commands that change something, each with the phase that the journal had
	hung    bool
	cont    func(*actor, *qmptest.Conn, qmptest.Request) bool // what it does instead when told to run, and whether it then hangs up; it holds mu
}

// die ends the process, and waits for that.
func (a *actor) die() {
	_ = a.process.Kill() // it cannot fail for a child
	<-a.process.Done()
}

// play starts an actor. A state of "" is a process that has ended, "mute" one whose monitor nobody has met.
func play(t *testing.T, name string, state qmp.RunState, journal *notes) (*actor, *Side) {
	t.Helper()
	if state == "" {
		return nil, nil
	}
	binary, err := qemu.Admit("/bin/sleep", nil)
	if err != nil {
		t.Fatal(err)
	}
	p, err := qemu.Start(qemu.Command{Binary: binary, Args: []string{"600"}, Log: t.TempDir() + "/log"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = p.Kill() // it may have ended
		<-p.Done()
		_ = p.Release() // nothing is left of it
	})
	a := &actor{name: name, journal: journal, process: p, state: state, moves: qmp.MigrationNone}
	side := &Side{Process: p, Version: "10.0.13"}
	if state == "mute" {
		return a, side
	}
	path := qmptest.Listen(t, a.serve)
	if side.Monitor, err = qmp.Dial(t.Context(), path, qmp.Options{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = side.Monitor.Close() })
	return a, side
}

func (a *actor) serve(c *qmptest.Conn) {
	c.Handshake()
	for {
		r, ok := c.Next()
		if !ok {
			return
		}
		if a.answer(c, r) {
			return
		}
	}
}

// answer answers, and tells whether it hangs up afterwards.
func (a *actor) answer(c *qmptest.Conn, r qmptest.Request) (hangUp bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.hung = a.hung || a.hangs == r.Command; a.hung {
		return false
	}
	switch r.Command {
	case "query-status":
		c.Return(r, map[string]any{"status": a.state, "running": a.state == qmp.RunRunning})
	case "query-migrate":
		c.Return(r, map[string]any{"status": a.moves})
	case "query-fdsets":
		c.Return(r, []any{})
	case "cont":
		a.note(r.Command)
		if a.cont != nil {
			return a.cont(a, c, r)
		}
		if a.refuses != "" {
			c.Refuse(r, a.refuses)
			return false
		}
		a.state = qmp.RunRunning
		c.Return(r, nil)
	case "migrate_cancel":
		a.note(r.Command)
		a.moves, a.state = qmp.MigrationCancelled, qmp.RunPaused
		c.Return(r, nil)
	case "quit":
		a.note(r.Command)
		c.Return(r, nil)
		_ = a.process.Kill() // as if it had ended by itself
	default:
		c.Return(r, nil)
	}
	return false
}

// note keeps that the command came, and what the journal said then. It needs a.mu.
func (a *actor) note(command string) {
	a.said = append(a.said, fmt.Sprintf("%s in %s", command, a.journal.last()))
}

func (a *actor) heard() []string {
	if a == nil {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.said)
}

func (a *actor) lives() bool {
	if a == nil {
		return false
	}
	_, over := a.process.Exited()
	return !over
}

// wreck is a handoff whose daemon has gone.
type wreck struct {
	phase      vmstate.Phase
	paused     bool // the guest stood
	mode       vmstate.Mode
	way        vmstate.Way
	source     qmp.RunState
	target     qmp.RunState
	change     func(source, target *actor)
	neverRan   bool
	sent       bool // the source had let go of some of the guest
	wantEnd    vmstate.Phase
	undecided  bool
	keeper     recovery.Choice
	sourceTold []string
	targetTold []string
	sourceDies bool
	targetDies bool
	says       string
	silent     bool // it failed because somebody did not answer
}

func wrecks() map[string]wreck {
	const run, stand, load = qmp.RunRunning, qmp.RunPaused, qmp.RunInMigrate
	all := map[string]wreck{
		"preparing":               {phase: vmstate.Preparing, source: run, target: load, wantEnd: vmstate.RolledBack, keeper: "source", targetDies: true, says: "the daemon ended while it was preparing"},
		"prepared, target gone":   {phase: vmstate.Prepared, source: run, wantEnd: vmstate.RolledBack, keeper: "source"},
		"prepared, source gone":   {phase: vmstate.Prepared, target: load, wantEnd: vmstate.RolledBack, targetDies: true},
		"switching":               {phase: vmstate.Switching, source: stand, target: load, wantEnd: vmstate.RolledBack, keeper: "source", targetDies: true, sourceTold: []string{"cont in switching"}, says: "the source was told to go on"},
		"switching, loaded":       {phase: vmstate.Switching, source: stand, target: stand, wantEnd: vmstate.RolledBack, keeper: "source", targetDies: true, sourceTold: []string{"cont in switching"}},
		"switching, not stopped":  {phase: vmstate.Switching, source: run, target: load, wantEnd: vmstate.RolledBack, keeper: "source", targetDies: true},
		"switching, paused guest": {phase: vmstate.Switching, paused: true, source: stand, target: stand, wantEnd: vmstate.RolledBack, keeper: "source", targetDies: true},
		"switching, target mute":  {phase: vmstate.Switching, source: stand, target: "mute", wantEnd: vmstate.RolledBack, keeper: "source", targetDies: true, sourceTold: []string{"cont in switching"}},
		"switching, source mute": {phase: vmstate.Switching, source: "mute", target: stand, silent: true, wantEnd: vmstate.Failed, keeper: "source", targetDies: true,
			says: "only the source can run the guest, and it does not answer"},
		"switching, source hangs at cont": {phase: vmstate.Switching, source: stand, target: stand, change: func(s, _ *actor) { s.hangs = "cont" }, silent: true, wantEnd: vmstate.Failed, keeper: "source", targetDies: true},
		"switching, source refuses": {phase: vmstate.Switching, source: stand, target: stand, change: func(s, _ *actor) { s.refuses = "locked" }, wantEnd: vmstate.Failed, keeper: "source",
			targetDies: true, sourceTold: []string{"cont in switching"}, says: "locked"},
		"switching, source killed, target loaded": {phase: vmstate.Switching, target: stand, wantEnd: vmstate.Completed, keeper: "target", targetTold: []string{"cont in committing"}},
		"switching live, the same":                {phase: vmstate.Switching, way: vmstate.WayLive, target: stand, wantEnd: vmstate.Failed, undecided: true},
		"switching, both dead":                    {phase: vmstate.Switching, wantEnd: vmstate.Failed, says: "both QEMUs are dead"},
		"switching, guest panicked":               {phase: vmstate.Switching, source: qmp.RunGuestPanicked, target: load, wantEnd: vmstate.RolledBack, keeper: "source", targetDies: true},
		"switching, in its migration": {phase: vmstate.Switching, way: vmstate.WayStopFirst, source: stand, target: load, change: func(s, _ *actor) { s.moves = qmp.MigrationActive },
			wantEnd: vmstate.RolledBack, keeper: "source", targetDies: true, sourceTold: []string{"migrate_cancel in switching", "cont in switching"}},
		"switching live, restarted": {phase: vmstate.Switching, way: vmstate.WayLive, source: run, target: load, change: func(s, _ *actor) { s.moves = qmp.MigrationFailed },
			wantEnd: vmstate.RolledBack, keeper: "source", targetDies: true},
		"committing":                            {phase: vmstate.Committing, source: stand, target: stand, wantEnd: vmstate.Completed, keeper: "target", sourceDies: true, targetTold: []string{"cont in committing"}},
		"committing, target runs":               {phase: vmstate.Committing, source: stand, target: run, wantEnd: vmstate.Completed, keeper: "target", sourceDies: true},
		"committing, source mute":               {phase: vmstate.Committing, source: "mute", target: stand, wantEnd: vmstate.Completed, keeper: "target", sourceDies: true, targetTold: []string{"cont in committing"}},
		"committing, paused guest":              {phase: vmstate.Committing, paused: true, source: stand, target: stand, wantEnd: vmstate.Completed, keeper: "target", sourceDies: true, sourceTold: []string{"quit in draining"}},
		"committing, paused guest, target dead": {phase: vmstate.Committing, paused: true, source: stand, wantEnd: vmstate.RolledBack, keeper: "source"},
		"committing, target refuses": {phase: vmstate.Committing, source: stand, target: stand, change: func(_, t *actor) { t.refuses = "Failed to get \"write\" lock" }, wantEnd: vmstate.RolledBack,
			keeper: "source", targetDies: true, targetTold: []string{"cont in committing"}, sourceTold: []string{"cont in committing, never ran"}, says: "Failed to get \"write\" lock"},
		"committing, target dies at cont": {phase: vmstate.Committing, source: stand, target: stand, change: func(_, target *actor) {
			target.cont = func(a *actor, _ *qmptest.Conn, _ qmptest.Request) bool {
				a.die()
				return true
			}
		}, wantEnd: vmstate.RolledBack, keeper: "source", targetDies: true, targetTold: []string{"cont in committing"}, sourceTold: []string{"cont in committing, never ran"}},
		"committing, target dies as it runs": {phase: vmstate.Committing, source: stand, target: stand, change: func(_, target *actor) {
			target.cont = func(a *actor, c *qmptest.Conn, _ qmptest.Request) bool {
				c.Event(qmp.EventResume, nil)
				a.die()
				return true
			}
		}, wantEnd: vmstate.Failed, undecided: true, targetDies: true, targetTold: []string{"cont in committing"}, says: "RAM may have moved on"},
		"committing, it had refused": {phase: vmstate.Committing, neverRan: true, source: stand, wantEnd: vmstate.RolledBack, keeper: "source", sourceTold: []string{"cont in committing, never ran"}},
		"committing, target mute":    {phase: vmstate.Committing, source: stand, target: "mute", silent: true, wantEnd: vmstate.Failed, undecided: true, says: "qlive resolve vm1"},
		"committing, target hangs at cont": {phase: vmstate.Committing, source: stand, target: stand, change: func(_, t *actor) { t.hangs = "cont" }, silent: true, wantEnd: vmstate.Failed, undecided: true,
			says: "does not answer, and may run the guest"},
		"committing, target hangs":  {phase: vmstate.Committing, source: stand, target: stand, change: func(_, t *actor) { t.hangs = "query-status" }, silent: true, wantEnd: vmstate.Failed, undecided: true},
		"committing, target dead":   {phase: vmstate.Committing, source: stand, wantEnd: vmstate.Failed, undecided: true, says: "RAM may have moved on"},
		"committing, both dead":     {phase: vmstate.Committing, wantEnd: vmstate.Failed, says: "both QEMUs are dead"},
		"committed":                 {phase: vmstate.Committed, source: stand, target: run, wantEnd: vmstate.Completed, keeper: "target", sourceDies: true},
		"committed, target mute":    {phase: vmstate.Committed, source: stand, target: "mute", wantEnd: vmstate.Completed, keeper: "target", sourceDies: true},
		"draining, source dead":     {phase: vmstate.Draining, target: run, wantEnd: vmstate.Completed, keeper: "target"},
		"draining, target ended":    {phase: vmstate.Draining, source: stand, wantEnd: vmstate.Completed, sourceDies: true},
		"draining paused, it ended": {phase: vmstate.Draining, paused: true, source: stand, wantEnd: vmstate.Failed, undecided: true},
		"completed":                 {phase: vmstate.Completed, target: run, wantEnd: vmstate.Completed, keeper: "target"},
		"rolled back":               {phase: vmstate.RolledBack, source: run, wantEnd: vmstate.RolledBack, keeper: "source"},
	}
	maps.Copy(all, postcopyWrecks())
	maps.Copy(all, precopyWrecks())
	return all
}

// stage puts a wreck together.
func (w wreck) stage(t *testing.T, points Failpoints) (Recovery, *notes, *actor, *actor) {
	t.Helper()
	journal := &notes{}
	source, sourceSide := play(t, "source", w.source, journal)
	target, targetSide := play(t, "target", w.target, journal)
	if w.change != nil {
		for _, a := range []*actor{source, target} {
			if a != nil {
				a.mu.Lock()
				defer a.mu.Unlock()
			}
		}
		w.change(source, target)
	}
	last := Record{Migration: "mig-1", VM: "vm1", Phase: w.phase, RunState: "running", Mode: w.mode, Way: w.way, NeverRan: w.neverRan, Sent: w.sent,
		Source: ProcessID{PID: 11, StartTime: 1, Dir: "/run/g0"}, Target: ProcessID{PID: 12, StartTime: 2, Dir: "/run/g1"}}
	if w.paused {
		last.RunState = "paused"
	}
	if w.way == "" {
		last.Way = vmstate.WayDeviceState
	}
	_ = journal.Record(last) // never fails by itself
	return Recovery{Records: []Record{last}, Times: []time.Time{time.Now()}, Source: sourceSide, Target: targetSide, Journal: journal, Gate: new(sync.Mutex),
		Failpoints: points, AnswerLimit: 300 * time.Millisecond, ContLimit: w.contLimit()}, journal, source, target
}

// contLimit leaves a source's migration the second that it gets to end by itself.
func (w wreck) contLimit() time.Duration {
	if w.way == vmstate.WayStopFirst {
		return 10 * time.Second
	}
	return 300 * time.Millisecond
}

func (n *notes) last() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	r := n.records[len(n.records)-1]
	if r.NeverRan {
		return string(r.Phase) + ", never ran"
	}
	return string(r.Phase)
}

// check holds an outcome against what the wreck must come to.
func (w wreck) check(t *testing.T, r Recovery, out Outcome, journal *notes) {
	t.Helper()
	if out.Migration.Phase != w.wantEnd || out.Undecided != w.undecided {
		t.Errorf("ended %s, undecided %v (%v), want %s, %v", out.Migration.Phase, out.Undecided, out.Err, w.wantEnd, w.undecided)
	}
	want := map[recovery.Choice]*Side{"source": r.Source, "target": r.Target}[w.keeper]
	if out.Keeper != want {
		t.Errorf("the keeper is %v, want the %s", out.Keeper, w.keeper)
	}
	last := journal.records[len(journal.records)-1]
	if last.Phase != w.wantEnd || last.Undecided != w.undecided || last.Silent != w.silent || last.Migration != "mig-1" || last.VM != "vm1" {
		t.Errorf("the journal ends with %+v", last)
	}
	told := strings.Join(append([]string{fmt.Sprint(out.Err)}, out.Migration.Warnings...), " ")
	if out.Err != nil {
		told += " " + vmstate.ProblemOf(out.Err).Remedy
	}
	if !w.phase.Ended() && (w.wantEnd == vmstate.Completed) != (out.Err == nil) || !strings.Contains(told, w.says) {
		t.Errorf("it says %q, want %q", told, w.says)
	}
	if !w.phase.Ended() && !strings.Contains(told, "the daemon ended while ") {
		t.Errorf("it does not say what has happened: %q", told)
	}
}

func TestRecover(t *testing.T) {
	for name, w := range wrecks() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, journal, source, target := w.stage(t, nil)
			out := Recover(t.Context(), r)
			w.check(t, r, out, journal)
			if got := source.heard(); !slices.Equal(got, w.sourceTold) {
				t.Errorf("the source was told %q, want %q", got, w.sourceTold)
			}
			if got := target.heard(); !slices.Equal(got, w.targetTold) {
				t.Errorf("the target was told %q, want %q", got, w.targetTold)
			}
			if source.lives() != (w.source != "" && !w.sourceDies) || target.lives() != (w.target != "" && !w.targetDies) {
				t.Errorf("the source lives: %v, the target lives: %v", source.lives(), target.lives())
			}
		})
	}
}

// A recovery that dies at any of its failpoints is taken up by the next one, which comes to the same end.
func TestRecoverInterrupted(t *testing.T) {
	for _, name := range []string{"switching", "switching, in its migration", "switching, source killed, target loaded", "committing", "committing, paused guest",
		"committing, target refuses", "committed", "draining, source dead", "committing, target dead"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := wrecks()[name]
			watch, err := failpoint.New("")
			if err != nil {
				t.Fatal(err)
			}
			r, _, _, _ := w.stage(t, watch)
			Recover(t.Context(), r)
			reached := watch.Reached()
			if len(reached) == 0 {
				t.Fatal("no failpoint was reached")
			}
			for _, point := range reached {
				t.Run(point, func(t *testing.T) {
					t.Parallel()
					interrupt(t, w, point)
				})
			}
		})
	}
}

func interrupt(t *testing.T, w wreck, point string) {
	points, err := failpoint.New(point + "=1*panic")
	if err != nil {
		t.Fatal(err)
	}
	r, journal, _, target := w.stage(t, points)
	func() {
		defer func() {
			if recover() == nil {
				t.Errorf("it did not die at %s", point)
			}
		}()
		Recover(t.Context(), r)
	}()
	records := slices.Clone(journal.records)
	r.Records, r.Times = records, nil
	for _, side := range []**Side{&r.Source, &r.Target} {
		if *side != nil && (*side).ended() {
			*side = nil
		}
	}
	out := Recover(t.Context(), r)
	if out.Migration.Phase != w.wantEnd || out.Undecided != w.undecided {
		t.Errorf("ended %s, undecided %v: %v", out.Migration.Phase, out.Undecided, out.Err)
	}
	if n := len(target.heard()); n > 1 && target.refuses == "" {
		t.Errorf("the target was told %q", target.heard())
	}
}

// What cannot be written down is not done, if the next daemon had to know of it.
func TestRecoverWithoutJournal(t *testing.T) {
	w := wrecks()["switching, source killed, target loaded"]
	r, journal, _, target := w.stage(t, nil)
	journal.fail = map[vmstate.Phase]error{vmstate.Committing: errors.New("no room")}
	out := Recover(t.Context(), r)
	if !out.Undecided || out.Migration.Phase != vmstate.Failed || len(target.heard()) != 0 || !strings.Contains(fmt.Sprint(out.Err), "no room") {
		t.Errorf("%+v, and the target was told %q", out, target.heard())
	}
}

func TestRecoverNothing(t *testing.T) {
	if out := Recover(t.Context(), Recovery{Gate: new(sync.Mutex)}); vmstate.KindOf(out.Err) != vmstate.Internal {
		t.Errorf("%+v", out)
	}
}
