package cpr_test

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"qlive/integration/env"
	"qlive/integration/lab"
	"qlive/internal/proc"
	"qlive/vmstate"
)

// strike sends a signal, and waits until the process is dead, or stopped.
func strike(pid int, sig unix.Signal) error {
	if err := unix.Kill(pid, sig); err != nil {
		return err
	}
	for deadline := time.Now().Add(lab.Limit); ; time.Sleep(time.Millisecond) {
		stat, err := proc.ReadStat(pid)
		tasks, _ := os.ReadDir("/proc/" + strconv.Itoa(pid) + "/task") // none: it has ended
		if err != nil || stat.Ended() && len(tasks) <= 1 || sig == unix.SIGSTOP && stat.State == 'T' {
			return nil
		}
		if time.Now().After(deadline) {
			return errors.New("the signal has no effect")
		}
	}
}

// A guest with several blocks of RAM on huge pages goes to a newer QEMU, to one of the same version, and back to the older one, which QEMU by itself
// cannot do, with handoffs in mode shared between, and survives its next reboot: its firmware is where it was.
func TestThereAndBack(t *testing.T) {
	lab.HugePages(t, 128)
	s := newScene(t)
	s.vm = s.Boot(wide(env.Backport))
	t.Run("undone", func(t *testing.T) { undone(t, s) })
	m := s.hand(t, env.Newest)
	if !strings.Contains(m.Log[0].Text, "mode cpr: asked for by name") || len(m.Warnings) > 0 {
		t.Errorf("log %+v, warnings %q", m.Log, m.Warnings)
	}
	if m := s.vm.HandOver(env.Newest, ""); m.Mode != vmstate.ModeShared {
		t.Errorf("auto took mode %s", m.Mode)
	}
	s.hand(t, env.Backport)
	s.vm.HandOver(env.Newest, vmstate.WayStopFirst)
	s.hand(t, env.Newest)
	if _, err := s.Client.Reset(t.Context(), s.vm.Name); err != nil {
		t.Fatal(err)
	}
	s.vm.AwaitBoots(2)
	s.vm.CheckMemory()
	t.Run("paused", func(t *testing.T) { paused(t, s) })
}

// A guest that stands goes on standing, and runs in the target once it is told to; or in the source, if the handoff is undone.
func paused(t *testing.T, s *scene) {
	pause := func() {
		if _, err := s.Client.Pause(t.Context(), s.vm.Name); err != nil {
			t.Fatal(err)
		}
	}
	pause()
	if err := s.points.Arm("flip.load.after", "1*error(as the test wants it)"); err != nil {
		t.Fatal(err)
	}
	if m := s.vm.Migrate(s.cpr(env.Newest)); m.Phase != vmstate.RolledBack || s.vm.Show().Status != vmstate.Paused {
		t.Fatalf("%s: %+v; the guest is %s", m.Phase, m.Error, s.vm.Show().Status)
	}
	if m := s.vm.Migrate(s.cpr(env.Newest)); m.Error == nil || !strings.Contains(m.Error.Detail, "only once it has run again") {
		t.Errorf("QEMU would refuse it: %s, %+v", m.Phase, m.Error)
	}
	if _, err := s.Client.Resume(t.Context(), s.vm.Name); err != nil {
		t.Fatal(err)
	}
	s.vm.AwaitBeats(20)
	pause()
	m := s.vm.Migrate(s.cpr(env.Newest))
	if now := s.vm.Show(); m.Phase != vmstate.Completed || now.Status != vmstate.Paused || m.PauseUS != nil {
		t.Fatalf("%s, pause %v, %+v; the guest is %s", m.Phase, m.PauseUS, m.Error, now.Status)
	}
	if _, err := s.Client.Resume(t.Context(), s.vm.Name); err != nil {
		t.Fatal(err)
	}
	s.vm.AwaitBeats(20)
	s.vm.CheckMemory()
}

// undone lets handoffs fail wherever the mode does something of its own.
func undone(t *testing.T, s *scene) {
	for _, point := range []string{"flip.check-cpr.after", "flip.set-mode.after", "flip.offer.before", "flip.offer.after", "flip.start-target.after", "flip.send-ahead.after",
		"flip.source-waits.before", "flip.stop.after", "flip.migrate.after", "flip.load.after"} {
		t.Run("failed at "+point, func(t *testing.T) {
			if err := s.points.Arm(point, "1*error(as the test wants it)"); err != nil {
				t.Fatal(err)
			}
			s.undone(t, s.cpr(env.Newest), "as the test wants it")
		})
	}
	for _, point := range []string{"flip.give.before", "flip.stop.after", "flip.load.before", "flip.load.after"} {
		t.Run("target killed at "+point, func(t *testing.T) {
			s.at(t, point, func() error { return s.strike(t, unix.SIGKILL) })
			s.undone(t, s.cpr(env.Newest), "was killed by signal 9")
		})
	}
	t.Run("target hangs", func(t *testing.T) {
		s.at(t, "flip.load.before", func() error { return s.strike(t, unix.SIGSTOP) })
		spec := s.cpr(env.Newest)
		spec.MaxPauseMS = 300
		s.undone(t, spec, "max_pause_ms, 300 ms")
	})
	t.Run("cancelled", func(t *testing.T) {
		before, spec := s.vm.Show(), s.cpr(env.Newest)
		spec.Hold = true
		id := s.vm.MigrateNoWait(spec)
		reach(t, s.Lab, id, vmstate.Prepared)
		s.vm.AwaitBeats(50)
		if _, err := s.Client.Cancel(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		s.sameAs(t, before, s.vm.Wait(id), "cancelled")
	})
}

// reach waits until a migration is in a phase.
func reach(t *testing.T, l *lab.Lab, id string, phase vmstate.Phase) {
	t.Helper()
	l.Eventually("the migration is "+string(phase), func() error {
		m, err := l.Client.Migration(t.Context(), id, 0)
		if err == nil && m.Phase != phase {
			if m.Phase.Ended() {
				t.Fatalf("migration %s is %s: %+v", id, m.Phase, m.Error)
			}
			err = vmstate.Errorf(vmstate.Timeout, "it is %s", m.Phase)
		}
		return err
	})
}

// What the mode needs and is not there is said before anything is touched.
func TestRefused(t *testing.T) {
	s := newScene(t)
	for version, says := range map[string]string{
		env.Installed: "the guest is in QEMU 7.2.22, and cpr-transfer is there since 10.0; the guest was started without -machine …,aux-ram-share=on",
		env.Newest:    "mode cpr: the guest was started without -machine …,aux-ram-share=on",
	} {
		s.vm = s.Start(lab.Spec{Name: "vm-" + version, QEMU: version, Bare: true})
		_, err := s.Client.Migrate(t.Context(), s.cpr(env.Newest), "")
		if p := vmstate.ProblemOf(err); err == nil || p.Kind() != vmstate.Unsupported || !strings.Contains(p.Detail, says) || !strings.Contains(p.Remedy, "aux-ram-share=on") {
			t.Errorf("%s: %+v", version, p)
		}
		precopy := s.cpr(env.Newest)
		precopy.Mode = vmstate.ModePrecopy
		if _, err := s.Client.Migrate(t.Context(), precopy, ""); vmstate.KindOf(err) != vmstate.Unsupported || !strings.Contains(err.Error(), "mode precopy") {
			t.Errorf("%s: %v", version, err)
		}
		if err := s.Client.RemoveVM(t.Context(), s.vm.Name, true); err != nil {
			t.Fatal(err)
		}
	}
	s.vm = s.Start(lab.Spec{Name: "vm1", QEMU: env.Backport, Machine: machine, Bare: true})
	way := s.cpr(env.Newest)
	way.Way = vmstate.WayDeviceState
	if _, err := s.Client.Migrate(t.Context(), way, ""); vmstate.KindOf(err) != vmstate.Invalid || !strings.Contains(err.Error(), "has its own way") {
		t.Errorf("by another way: %v", err)
	}
	before := s.vm.Show()
	m := s.vm.Migrate(s.cpr(env.Installed))
	if m.Phase != vmstate.RolledBack || m.Error == nil || !strings.Contains(m.Error.Detail, "the target is QEMU 7.2.22") || m.Error.Step != "check-cpr" {
		t.Errorf("to a QEMU that has it not: %s, %+v", m.Phase, m.Error)
	}
	if after := s.vm.Show(); after.PID != before.PID || after.Status != vmstate.Running {
		t.Errorf("the guest is %s in pid %d", after.Status, after.PID)
	}
}

// QEMUs that run as a user find each other, too.
func TestUnprivileged(t *testing.T) {
	s := newSceneFor(t, "nobody")
	s.vm = s.Start(lab.Spec{QEMU: env.Backport, Machine: machine, Bare: true})
	for _, version := range []string{env.Newest, env.Backport} {
		if m := s.vm.Migrate(s.cpr(version)); m.Phase != vmstate.Completed {
			t.Fatalf("to %s: %s, %+v", version, m.Phase, m.Error)
		}
	}
	s.one(t)
}

// A source that dies while the guest stands takes the guest with it, and the target is not run.
func TestSourceKilled(t *testing.T) {
	s := newScene(t)
	s.vm = s.Start(lab.Spec{QEMU: env.Newest, Machine: machine, Bare: true})
	pid := s.vm.Show().PID
	s.at(t, "flip.migrate.before", func() error { return strike(pid, unix.SIGKILL) })
	m := s.vm.Migrate(s.cpr(env.Backport))
	if !m.Phase.Ended() || m.Phase == vmstate.Completed || m.Error == nil {
		t.Errorf("the handoff is %s: %+v", m.Phase, m.Error)
	}
	s.Eventually("the VM is seen to have ended", func() error {
		if vm := s.vm.Show(); vm.Status != vmstate.Broken && vm.Status != vmstate.Stopped {
			return errors.New("it is " + string(vm.Status))
		}
		return nil
	})
	if left := s.QEMUs(t); len(left) > 0 {
		t.Errorf("QEMUs are left: %v", left)
	}
}
