package precopy_test

import (
	"context"
	"testing"

	"golang.org/x/sys/unix"

	"qlive/integration/env"
	"qlive/integration/lab"
	"qlive/internal/failpoint"
	"qlive/internal/qmp"
	"qlive/vmstate"
)

// These have a daemon in this very process, and each looks at the end for what it has left: they do not run beside each other, but beside a daemon that is another process.
func TestPrecopy(t *testing.T) {
	t.Parallel()
	t.Run("everything goes wrong before", troubles)
	t.Run("a source that loses changes", oldSource)
	t.Run("private huge pages and others", backings)
}

// A guest with a plain -m that changes its memory all the time is copied into memory of qlive's, and handed on without copying. Before that everything goes wrong that can:
// until the target runs the source has all of the guest.
func troubles(t *testing.T) {
	points, err := failpoint.New("")
	if err != nil {
		t.Fatal(err)
	}
	l := lab.New(t, lab.Options{NoTree: true, Failpoints: points})
	s := start(t, l, env.Backport, linux(l)...)
	s.awaitBeats(20)
	s.adopt()
	before := s.parameters()
	c := copying{s, points}
	m := c.ask(func(m vmstate.Migration) {
		if _, err := l.Client.Cancel(t.Context(), m.ID); err != nil {
			t.Error(err)
		}
	})
	ends(t, l, m.ID, vmstate.Aborted, "as asked")
	m = c.ask(func(m vmstate.Migration) {
		if err := unix.Kill(m.To.PID, unix.SIGKILL); err != nil {
			t.Error(err)
		}
	})
	ends(t, l, m.ID, vmstate.RolledBack, "killed")
	m = ask(t, l, env.Newest, func(spec *vmstate.MigrationSpec) { spec.TimeoutS = 2 }) // as slow as before
	ends(t, l, m.ID, vmstate.RolledBack, "within 2s")
	points.Func("flip.copy.before", func() error { return nil })
	m = ask(t, l, env.Newest, func(spec *vmstate.MigrationSpec) { spec.TimeoutS, spec.MaxPauseMS = 3, 1 })
	ends(t, l, m.ID, vmstate.RolledBack, "max_pause_ms") // the guest has stood, or was not copied soon enough
	s.awaitBeats(20)
	if after := s.parameters(); after != before {
		t.Errorf("the source's migrations are set to %+v now, they were to %+v", after, before)
	}
	m = c.ask(func(vmstate.Migration) { // whoever wants to do something with the guest meanwhile does it
		vm, err := l.Client.Pause(t.Context(), "vm1")
		if err == nil && vm.Status == vmstate.Paused {
			vm, err = l.Client.Resume(t.Context(), "vm1")
		}
		if err != nil || vm.Status != vmstate.Running {
			t.Errorf("it is %s, %v", vm.Status, err)
		}
		s.bandwidth(0)
	})
	m = ends(t, l, m.ID, vmstate.Completed, "")
	<-s.ended
	t.Logf("pause %d µs, by QEMU %d µs, %d ms in all, %+v", *m.PauseUS, *m.QEMUPause, m.TotalUS/1000, *m.Copy)
	if m.Way != vmstate.WayLive || m.Copy.RemainingBytes != 0 || m.ExtraBytes < 256*mib {
		t.Errorf("it ends by way %s with %+v, and %d bytes beside", m.Way, m.Copy, m.ExtraBytes)
	}
	s.awaitBeats(30)
	s.handedOn(env.Stable, vmstate.Memfd)
}

// copying asks for handoffs, and does something in the middle of them.
type copying struct {
	*stranger
	points *failpoint.Set
}

func (c copying) ask(do func(vmstate.Migration)) vmstate.Migration {
	c.t.Helper()
	c.points.Func("flip.copy.before", func() error { c.bandwidth(8 * mib); return nil })
	hits := c.points.Hits("flip.copying.after")
	m := ask(c.t, c.l, env.Newest)
	ctx, cancel := context.WithTimeout(c.t.Context(), lab.Limit)
	defer cancel()
	if err := c.points.Await(ctx, "flip.copying.after", hits+2); err != nil {
		c.t.Fatal(err)
	}
	m, err := c.l.Client.Migration(c.t.Context(), m.ID, 0)
	if err != nil || m.Phase != vmstate.Prepared || m.Copy == nil || m.Copy.RemainingBytes == 0 || m.Regions[0].PopulatedBytes != 256*mib || m.Regions[0].FlippedBytes == 0 {
		c.t.Fatalf("in the middle: %+v, %+v, %v", m, m.Copy, err)
	}
	do(m)
	return m
}

// A QEMU that loses track of what its guest changes stands while it is copied, once somebody has said that it may stand so long.
func oldSource(t *testing.T) {
	l := lab.New(t, lab.Options{NoTree: true})
	s := start(t, l, env.Installed, linux(l)...)
	s.awaitBeats(20)
	s.adopt()
	m := ask(t, l, env.Newest, func(spec *vmstate.MigrationSpec) { spec.MaxPauseMS = 0 })
	ends(t, l, m.ID, vmstate.RolledBack, "max_pause_ms")
	m = ends(t, l, ask(t, l, env.Newest).ID, vmstate.Completed, "")
	<-s.ended
	if m.Way != vmstate.WayStopFirst || m.PauseUS == nil || m.EstimateUS == nil || m.Copy == nil || m.Copy.RemainingBytes != 0 {
		t.Errorf("it ends with %+v, %+v", m, m.Copy)
	}
	s.awaitBeats(30)
	s.handedOn(env.Installed, vmstate.Memfd)
}

// handedOn hands the guest on, in mode shared, and makes sure of its memory.
func (s *stranger) handedOn(version string, backing vmstate.Backing) {
	s.t.Helper()
	vm, err := s.l.Client.VM(s.t.Context(), "vm1")
	if err != nil || vm.Adoption != nil || len(vm.Regions) != 1 || vm.Regions[0].Backing != backing || vm.RAMBytes != 256*mib {
		s.t.Errorf("after the copy: %+v, %v", vm, err)
	}
	m := ask(s.t, s.l, version, func(spec *vmstate.MigrationSpec) { spec.Mode = "" })
	if m = ends(s.t, s.l, m.ID, vmstate.Completed, ""); m.Mode != vmstate.ModeShared {
		s.t.Errorf("handed on in mode %s", m.Mode)
	}
	s.awaitTruth(30)
}

// parameters is what a source's own migrations are set to.
func (s *stranger) parameters() (p struct{ bandwidth, downtime int64 }) {
	s.t.Helper()
	s.own(func(ctx context.Context, c *qmp.Client) error {
		had, err := c.QueryMigrateParameters(ctx)
		if err == nil {
			p.bandwidth, p.downtime = *had.MaxBandwidth, *had.DowntimeLimit
		}
		return err
	})
	return p
}
