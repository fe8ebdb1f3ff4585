package kills_test

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"qlive/integration/env"
	"qlive/integration/guest"
	"qlive/integration/kills/stage"
	"qlive/vmstate"
)

// cell is a case of the matrix.
type cell struct {
	way vmstate.Way
	stage.Strike
}

func (c cell) name() string { return string(c.way) + "/" + c.Strike.String() }

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

// pointsOfAll are the points of all ways, each with the first way that comes to it.
func pointsOfAll() []cell {
	var list []cell
	for _, way := range vmstate.Ways() {
		for _, point := range stage.Points(way) {
			if !slices.ContainsFunc(list, func(c cell) bool { return c.Point == point }) {
				list = append(list, cell{way: way, Strike: stage.Strike{Point: point}})
			}
		}
	}
	return list
}

// rotation visits each point once. From one to the next it goes on to the next party, and from time to time changes the signal.
func rotation(seed int) []cell {
	var cells []cell
	for i, c := range pointsOfAll() {
		all := strikes(c.Point)
		c.Strike = all[(seed+i*3+i/2)%len(all)]
		cells = append(cells, c)
	}
	return cells
}

// everything visits each point of each way with each party and signal; and has a target hang for longer than qlive waits for its answer to cont, so
// that nobody can say whether it runs the guest until it goes on.
func everything() []cell {
	cells := []cell{{vmstate.WayDeviceState, stage.Strike{Party: stage.Target, Signal: unix.SIGSTOP, Point: "flip.run-target.before", Hang: 40 * time.Second}}}
	for _, way := range vmstate.Ways() {
		for _, point := range stage.Points(way) {
			for _, k := range strikes(point) {
				cells = append(cells, cell{way, k})
			}
		}
	}
	return cells
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

// Wherever a party is killed or hangs, the guest runs in exactly one QEMU afterwards, undisturbed, and the next handoff succeeds; where its
// only runner was killed, the VM is failed and says why.
func TestMatrix(t *testing.T) {
	seed := number(t, "SEED", int(time.Now().Unix()%1000))
	cells := rotation(seed)
	if os.Getenv("KILLS") == "all" {
		cells = everything()
	}
	t.Logf("SEED=%d, %d cases", seed, len(cells))
	m := newMatrix(t)
	for _, c := range cells {
		t.Run(c.name(), func(t *testing.T) { m.visit(t, c) })
	}
	t.Logf("%d cases, %d guests started, %d of them lost with their only runner; %s", len(cells), m.boots, m.lost, m.ends())
}

// matrix is the guest that goes from case to case as long as it lives.
type matrix struct {
	*stage.Stage
	guest *stage.Guest // nil until one is needed
	at    int          // of the next version
	boots int
	lost  int
	count map[string]int
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
	return &matrix{Stage: s, count: make(map[string]int)}
}

// ends counts how the handoffs have ended.
func (m *matrix) ends() string { return fmt.Sprint(m.count) }

// shape is a small guest with something of everything.
func shape() stage.Shape {
	return stage.Shape{QEMU: env.Installed, MiB: 256, Args: []string{"-device", "VGA"}, Load: guest.Params{FillMiB: 16, DirtyMiB: 2, VerifySecs: -1}}
}

// next is what the guest is handed over to: from the oldest to the newest and back.
func (m *matrix) next() string {
	m.at++
	return []string{env.Installed, env.Newest}[m.at%2]
}

// visit is one case: a strike in the middle of a handoff, then a handoff that must succeed.
func (m *matrix) visit(t *testing.T, c cell) { m.survives(t, c, m.strike(t, c)) }

// strike starts a handoff and strikes. One that is over before it comes to the place, because the machine is slow, is repeated with more time.
func (m *matrix) strike(t *testing.T, c cell) *stage.Blow {
	t.Helper()
	for _, limit := range []time.Duration{2 * time.Second, 40 * time.Second} { // short at first, so that who hangs is given up soon
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
	if err := m.needGuest(t); err != nil {
		m.fail(t, "a guest", err)
	}
	spec := vmstate.MigrationSpec{Binary: m.Env.QEMU(m.next()), Way: c.way, TimeoutS: int(limit.Seconds()), MaxPauseMS: int(limit.Milliseconds()) / 2}
	blow, err := m.Stage.Strike(ctx, m.guest, spec, c.Strike)
	if err != nil {
		m.fail(t, "striking", err)
	}
	if !blow.Missed {
		return blow
	}
	t.Logf("nobody was struck within %v", limit)
	if _, err := m.StartDaemon(ctx, ""); err != nil {
		m.fail(t, "the daemon's next start", err)
	}
	if _, err := m.Settle(ctx, m.guest, blow); err != nil {
		m.fail(t, "after a handoff that was over too soon", err)
	}
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
	if out.Lost {
		m.lost++
		if err := checkReason(blow, m.guest.Name, out); err != nil {
			t.Error(err)
		}
		err = m.Remove(ctx, m.guest)
		m.guest = nil
	} else if err = m.HandOver(ctx, m.guest, vmstate.MigrationSpec{Binary: m.Env.QEMU(m.next()), Way: c.way}); err == nil {
		err = m.guest.Verify(ctx)
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

func (m *matrix) needGuest(t *testing.T) (err error) {
	if m.guest != nil {
		return nil
	}
	m.boots++
	m.guest, err = m.Boot(t.Context(), shape())
	return err
}
