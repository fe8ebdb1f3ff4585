package kills_test

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"qlive/integration/kills/stage"
	"qlive/vmstate"
)

// twice are deaths of a daemon in the middle of what it does about the death of another.
func twice() []struct{ first, second string } {
	return []struct{ first, second string }{
		{"flip.compare-devices.before", "flip.recover-fence.before"},
		{"flip.compare-devices.before", "flip.recover-fence.after"},
		{"flip.compare-devices.before", "flip.recover-roll-back.before"},
		{"flip.compare-devices.before", "flip.recover-roll-back.after"},
		{"flip.load.before", "flip.recover-give-back.before"},
		{"flip.load.after", "flip.recover-give-back.after"},
		{"flip.load.after", "flip.recover-roll-back.before"},
		{"flip.run-target.before", "flip.recover-run-target.before"},
		{"flip.run-target.before", "flip.recover-run-target.after"},
		{"flip.run-target.after", "flip.recover-commit.before"},
		{"flip.run-target.after", "flip.recover-commit.after"},
		{"flip.end-source.before", "flip.recover-end-source.before"},
		{"flip.end-source.before", "flip.recover-end-source.after"},
		{"flip.end-source.after", "flip.recover-complete.before"},
		{"flip.end-source.after", "flip.recover-complete.after"},
	}
}

// both are a QEMU and the daemon at once: the next daemon finds the QEMU dead or mute.
func both() []cell {
	var list []cell
	for _, at := range []struct {
		course stage.Course
		steps  string
	}{
		{usual(), "compare-devices.before stop.after load.after run-target.before run-target.after end-source.before"},
		{stage.Course{Moves: true}, "move-memory.before move-memory.after load.after"},
		{stage.Course{Mode: vmstate.ModeCPR}, "offer.after migrate.after run-target.after"},
		{stage.Course{Mode: vmstate.ModePostcopy}, "begin.after run-target.after receive.before"},
	} {
		for _, step := range strings.Fields(at.steps) {
			for _, k := range strikes("flip." + step) {
				if k.Party != stage.Daemon {
					k.And = true
					list = append(list, cell{at.course, k})
				}
			}
		}
	}
	return list
}

// A daemon that dies together with a QEMU, or while one hangs: the next one does not wait for it without end, and takes it for what it is.
func TestKilledTogether(t *testing.T) {
	seed := number(t, "SEED", int(time.Now().Unix()%1000))
	courses := courses(t)
	t.Logf("SEED=%d", seed)
	m := newMatrix(t)
	for i, c := range both() {
		if courses == nil && (c.course != usual() || (i+i/4+seed)%4 != 0) || courses != nil && !slices.Contains(courses, c.course) {
			continue
		}
		t.Run(c.name(), func(t *testing.T) { m.visit(t, c) })
	}
}

// A daemon that dies while it takes up a handoff leaves it to the next one.
func TestKilledTwice(t *testing.T) {
	seed := number(t, "SEED", int(time.Now().Unix()%1000))
	t.Logf("SEED=%d", seed)
	m := newMatrix(t)
	for i, c := range twice() {
		if os.Getenv("KILLS") != "all" && (i+i/2+seed)%2 != 0 {
			continue
		}
		t.Run(c.first+"/"+c.second, func(t *testing.T) { m.killTwice(t, c.first, c.second) })
	}
}

func (m *matrix) killTwice(t *testing.T, first, second string) {
	ctx := t.Context()
	c := cell{usual(), stage.Strike{Party: stage.Daemon, Signal: unix.SIGKILL, Point: first}}
	blow := m.strike(t, c)
	hit, err := m.KillAtStart(ctx, second)
	if err != nil {
		m.fail(t, "the daemon's next start", err)
	}
	if !hit {
		t.Errorf("the daemon did not come to %s", second)
	}
	m.survives(t, c, blow)
}
