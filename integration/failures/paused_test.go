package failures_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"qlive/integration/env"
	"qlive/integration/lab"
	"qlive/vmstate"
)

// A guest that stands is handed over standing, by each way, and stands in the source after a handoff that was undone. What it does when it
// is let go, it does where it is then.
func pausedGuest(t *testing.T, s *scene) {
	for _, version := range []string{env.Installed, env.Newest} {
		for _, way := range vmstate.Ways() {
			t.Run("from "+version+"/"+string(way), func(t *testing.T) {
				if s.vm.Show().QEMU.Version != version {
					s.works(t, version, way)
				}
				if !s.canStand(way) {
					s.pause(t)
					s.refused(t, way, "send-ahead")
					s.resume(t)
					return
				}
				for _, point := range []string{"flip.send-ahead.after", "flip.load.before", "flip.switch.after"} {
					s.pause(t)
					s.stands(t, way, point)
					s.resume(t)
				}
				s.pause(t)
				s.standing(t, s.other(), way, "paused")
				s.resume(t)
			})
		}
	}
}

// canStand tells whether a guest that stands can be handed over by a way from where it is: QEMU before 10.0 aborts in its own migrate if the
// guest has not run since it came.
func (s *scene) canStand(way vmstate.Way) bool {
	return way == vmstate.WayDeviceState || s.vm.Show().QEMU.Version != env.Installed
}

// A guest that was never started.
func TestNeverStarted(t *testing.T) {
	s := newScene(t)
	s.vm = s.Start(lab.Spec{Guest: small(), Paused: true})
	s.becomes(t, "prelaunch")
	for _, way := range vmstate.Ways() {
		for range 2 {
			if s.canStand(way) {
				s.stands(t, way, "flip.send-ahead.after")
				s.standing(t, s.other(), way, "prelaunch")
			} else {
				s.refused(t, way, "send-ahead")
				s.standing(t, s.other(), vmstate.WayDeviceState, "prelaunch")
			}
		}
	}
	s.stands(t, vmstate.WayDeviceState, "flip.load.after")
	if _, err := s.Client.Resume(t.Context(), s.vm.Name); err != nil {
		t.Fatal(err)
	}
	s.vm.AwaitBoots(1)
	s.vm.CheckMemory()
	s.works(t, s.other(), vmstate.WayDeviceState)
}

// refused makes sure that a way which cannot take a guest that stands says so.
func (s *scene) refused(t *testing.T, way vmstate.Way, step string) {
	t.Helper()
	m := s.undone(t, vmstate.MigrationSpec{Binary: s.Env.QEMU(s.other()), Way: way}, want{kind: vmstate.Unsupported, step: step, says: "by " + string(way)})
	if !strings.Contains(m.Error.Remedy, "device_state") {
		t.Errorf("the remedy is %q", m.Error.Remedy)
	}
}

func (s *scene) pause(t *testing.T) {
	t.Helper()
	if vm, err := s.Client.Pause(t.Context(), s.vm.Name); err != nil || vm.Status != vmstate.Paused || vm.RunState != "paused" {
		t.Fatalf("after pause the guest is %s, %s: %v", vm.Status, vm.RunState, err)
	}
	s.silent(t)
}

// silent waits until the guest's last words have come.
func (s *scene) silent(t *testing.T) {
	t.Helper()
	beats := uint64(0)
	s.Eventually("the guest is silent", func() error {
		was := beats
		time.Sleep(50 * time.Millisecond) // 25 beats
		if beats = s.vm.Report().Beats; beats != was {
			return fmt.Errorf("it has said %d beats, then %d", was, beats)
		}
		return nil
	})
}

// resume lets the guest go, and makes sure that nothing has happened to it.
func (s *scene) resume(t *testing.T) {
	t.Helper()
	if vm, err := s.Client.Resume(t.Context(), s.vm.Name); err != nil || vm.Status != vmstate.Running {
		t.Fatalf("after resume the guest is %s, %s: %v", vm.Status, vm.RunState, err)
	}
	s.vm.AwaitBeats(20)
	s.vm.CheckMemory()
}

// stands lets a handoff of a guest that stands fail at a point. If QEMU's own migrate had completed by then, QEMU calls the guest postmigrate
// and does not migrate it again before it has run: that is said by name, and device_state remains.
func (s *scene) stands(t *testing.T, way vmstate.Way, point string) {
	t.Helper()
	s.arm(t, point, "1*error(as the test wants it)")
	before := s.look(t)
	beats := s.vm.Report().Beats
	m := s.vm.Wait(s.begin(t, vmstate.MigrationSpec{Binary: s.Env.QEMU(s.other()), Way: way}).ID)
	want{kind: vmstate.QEMU, step: anyStep, says: "as the test wants it"}.check(t, m)
	if m.PauseUS != nil {
		t.Errorf("a guest that stood is said to have been stopped for %d µs", *m.PauseUS)
	}
	migrated := s.vm.Show().RunState == "postmigrate" && way != vmstate.WayDeviceState
	if migrated {
		before.RunState = "postmigrate"
	}
	s.excuse(t, before)
	s.settle(t, before)
	if now := s.vm.Report().Beats; now != beats {
		t.Errorf("undone at %s: a guest that stood has said %d beats", point, now-beats)
	}
	if migrated {
		s.refused(t, way, "inspect-source")
		s.standing(t, s.other(), vmstate.WayDeviceState, "paused")
		s.standing(t, s.other(), vmstate.WayDeviceState, "paused")
	}
}

// excuse leaves out what QEMU before 9.1 was given by add-fd: it closes that only while the guest runs.
func (s *scene) excuse(t *testing.T, before inventory) {
	t.Helper()
	if v := s.vm.Show().QEMU.Version; v != env.Installed {
		return
	}
	for file, n := range s.look(t).Source {
		if strings.HasSuffix(file, "/devices (deleted)") {
			before.Source[file] = n
		}
	}
}

// standing hands a guest over that stands.
func (s *scene) standing(t *testing.T, version string, way vmstate.Way, runState string) {
	t.Helper()
	beats := s.vm.Report().Beats
	m := s.vm.Wait(s.begin(t, vmstate.MigrationSpec{Binary: s.Env.QEMU(version), Way: way}).ID)
	if m.Phase != vmstate.Completed {
		t.Fatalf("handing a guest over that stands, to %s by %s: %s: %+v", version, way, m.Phase, m.Error)
	}
	vm := s.vm.Show()
	if vm.Status != vmstate.Paused || vm.RunState != runState || vm.QEMU.Version != version {
		t.Errorf("the guest is %s, %s, in %s; want paused, %s", vm.Status, vm.RunState, vm.QEMU.Version, runState)
	}
	if m.PauseUS != nil || m.QEMUPause != nil {
		t.Errorf("it has never stopped, and its pause is %s µs, %s by QEMU", number(m.PauseUS), number(m.QEMUPause))
	}
	if now := s.vm.Report().Beats; now != beats {
		t.Errorf("a guest that stood has said %d beats", now-beats)
	}
}
