package kills_test

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"qlive/integration/kills/stage"
	"qlive/integration/lab"
	"qlive/vmstate"
)

// cell is a case of the matrix.
type cell struct {
	course stage.Course
	stage.Strike
}

func (c cell) name() string { return c.course.String() + "/" + c.Strike.String() }

// usual is the course that a handoff takes if nothing else is asked for.
func usual() stage.Course { return stage.Course{Way: vmstate.WayDeviceState} }

// strikes are all that can be done at a point.
func strikes(point string) []stage.Strike {
	var list []stage.Strike
	for _, party := range stage.Parties() {
		for _, sig := range []unix.Signal{unix.SIGKILL, unix.SIGSTOP} {
			if k := (stage.Strike{Party: party, Signal: sig, Point: point}); k.Possible() {
				list = append(list, k)
			}
		}
	}
	return list
}

// pointsOfAll are the points of mode shared, each with the first way that comes to it.
func pointsOfAll() []cell {
	var list []cell
	for _, way := range vmstate.Ways() {
		course := stage.Course{Way: way}
		for _, point := range course.Points() {
			if !slices.ContainsFunc(list, func(c cell) bool { return c.Point == point }) {
				list = append(list, cell{course: course, Strike: stage.Strike{Point: point}})
			}
		}
	}
	return list
}

// rotation visits each point of mode shared once, and one of each other course. From one to the next it goes on to the next party, and from time to
// time changes the signal.
func rotation(seed int) []cell {
	var cells []cell
	for i, c := range pointsOfAll() {
		all := strikes(c.Point)
		c.Strike = all[(seed+i*3+i/2)%len(all)]
		cells = append(cells, c)
	}
	for _, course := range stage.Courses() {
		if course.Way == "" {
			all := everything(course)
			cells = append(cells, all[seed*17%len(all)])
		}
	}
	return cells
}

// everything visits each point of a course with each party and signal; and, once, has a target hang for longer than qlive waits for its answer to cont,
// so that nobody can say whether it runs the guest until it goes on.
func everything(course stage.Course) (cells []cell) {
	if course == usual() {
		cells = append(cells, cell{course, stage.Strike{Party: stage.Target, Signal: unix.SIGSTOP, Point: "flip.run-target.before", Hang: 40 * time.Second}})
	}
	for _, point := range course.Points() {
		for _, k := range strikes(point) {
			cells = append(cells, cell{course, k})
		}
	}
	return cells
}

// courses are those that the variable KILLS names, all of them for the word all; nil if it names none, for a part of the matrix.
func courses(t *testing.T) (list []stage.Course) {
	t.Helper()
	names := os.Getenv("KILLS")
	for _, course := range stage.Courses() {
		if names == "all" || slices.Contains(strings.Split(names, ","), course.String()) {
			list = append(list, course)
		}
	}
	if names != "" && list == nil {
		t.Fatalf("KILLS=%s: courses are %q", names, stage.Courses())
	}
	return list
}

// number reads a number from the environment.
func number(t *testing.T, name string, otherwise int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 {
		t.Fatalf("%s=%s is no number", name, text)
	}
	return n
}

// Wherever a party is killed or hangs, the guest is where the documents say: it runs in exactly one QEMU, undisturbed, and the next handoff succeeds; or,
// where its only runner was killed, the VM is failed and says why.
func TestMatrix(t *testing.T) {
	seed := number(t, "SEED", int(time.Now().Unix()%1000))
	var cells []cell
	huge := false
	for _, course := range courses(t) {
		cells = append(cells, everything(course)...)
		huge = huge || course.Moves
	}
	if cells == nil {
		cells = rotation(seed)
	}
	t.Logf("SEED=%d, %d cases", seed, len(cells))
	if huge {
		lab.HugePages(t, 256) // the guest's RAM, and what a daemon that was killed may not have given back yet
	}
	m := newMatrix(t)
	m.huge = huge
	for _, c := range cells {
		t.Run(c.name(), func(t *testing.T) { m.visit(t, c) })
	}
	if !t.Failed() {
		m.checkCourses(t)
	}
	t.Logf("%d cases, %d guests started, %d of them lost with their only runner; %s", len(cells), m.boots, m.lost, m.ends())
}

// matrix is the guest that goes from case to case as long as it lives.
type matrix struct {
	*stage.Stage
	guest       *stage.Guest // nil until one is needed
	kind        vmstate.Mode // that it can take
	at          int          // of the next version
	huge        bool         // there are huge pages to move it into
	bare        bool         // guests need not say anything: each is lost at once
	boots       int
	lost        int
	count       map[string]int       // how handoffs that were struck have ended
	struck      map[stage.Course]int // cases
	undisturbed map[stage.Course]int // handoffs that were left alone
}

func newMatrix(t *testing.T) *matrix {
	s, err := stage.Open(t.Context(), t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(t.Failed() && os.Getenv("KEEP") != ""); err != nil {
			t.Error(err)
		}
	})
	return &matrix{Stage: s, count: make(map[string]int), struck: make(map[stage.Course]int), undisturbed: make(map[stage.Course]int)}
}

// ends counts how the handoffs have ended.
func (m *matrix) ends() string { return fmt.Sprint(m.count) }

// visit is one case: a strike in the middle of a handoff, then a handoff that must succeed.
func (m *matrix) visit(t *testing.T, c cell) { m.survives(t, c, m.strike(t, c)) }

// strike starts a handoff and strikes. One that is over before it comes to the place, because the machine is slow, is repeated with more time.
func (m *matrix) strike(t *testing.T, c cell) *stage.Blow {
	t.Helper()
	m.struck[c.course]++
	for _, limit := range limits(c.course) {
		if blow := m.strikeWithin(t, c, limit); !blow.Missed {
			return blow
		}
	}
	m.fail(t, "striking", errors.New("nobody was struck"))
	return nil
}

// strikeWithin starts a handoff that has so much time and strikes, unless it is over before.
func (m *matrix) strikeWithin(t *testing.T, c cell, limit time.Duration) *stage.Blow {
	t.Helper()
	ctx := t.Context()
	if _, err := m.Restart(ctx, unix.SIGKILL, c.Failpoints(1)); err != nil {
		m.fail(t, "arming the failpoint", err)
	}
	if err := m.needGuest(ctx, c.course); err != nil {
		m.fail(t, "a guest", err)
	}
	spec, _, err := m.spec(ctx, c.course)
	if err != nil {
		m.fail(t, "a handoff", err)
	}
	spec.TimeoutS, spec.MaxPauseMS = int(limit.Seconds()), int(limit.Milliseconds())/2
	blow, err := m.Stage.Strike(ctx, m.guest, spec, c.Strike)
	if err != nil {
		m.fail(t, "striking", err)
	}
	if !blow.Missed {
		return blow
	}
	if _, err := m.StartDaemon(ctx, ""); err != nil {
		m.fail(t, "the daemon's next start", err)
	}
	out, err := m.Settle(ctx, m.guest, blow)
	if err != nil {
		m.fail(t, "after a handoff that was over too soon", err)
	}
	t.Logf("nobody was struck within %v: %s", limit, out.Why)
	return blow
}

// survives checks what has become of the guest, with a daemon that is started if there is none, and hands it over.
func (m *matrix) survives(t *testing.T, c cell, blow *stage.Blow) {
	t.Helper()
	ctx := t.Context()
	if !m.DaemonRuns() {
		if _, err := m.StartDaemon(ctx, ""); err != nil {
			m.fail(t, "the daemon's next start", err)
		}
	}
	out, err := m.Settle(ctx, m.guest, blow)
	if err != nil {
		m.fail(t, "afterwards", err)
	}
	m.count[string(out.Phase)]++
	t.Logf("struck in %s, ended as %q in %v, lost: %v, resolved: %q: %s", blow.Phase, out.Phase, out.Took.Round(time.Millisecond), out.Lost, out.Resolved, out.Why)
	if err := documented(c, blow, out); err != nil {
		t.Error(err)
	}
	if out.Lost {
		m.lost++
		if err := checkReason(blow, m.guest.Name, out); err != nil {
			t.Error(err)
		}
		err = m.Remove(ctx, m.guest)
		m.guest = nil
	} else {
		err = m.handOver(ctx, c.course)
	}
	if err != nil {
		m.fail(t, "the next handoff", err)
	}
}

// fail ends a case, its guest and the daemon, of which one does not know what they do: the next case begins with others.
func (m *matrix) fail(t *testing.T, what string, err error) {
	t.Helper()
	if err := m.Clear(t.Context()); err != nil {
		t.Error(err)
	}
	m.guest = nil
	t.Fatalf("%s: %v", what, err)
}
