package failures_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"qlive/integration/env"
	"qlive/vmstate"
)

// races are how long before the guest is stopped it is told to do something: the order goes through its serial port meanwhile.
func races() []time.Duration {
	return []time.Duration{0, 200 * time.Microsecond, time.Millisecond, 3 * time.Millisecond}
}

// lastWord is the last point at which the source's guest can still be told something: what is typed afterwards is kept for whoever has it next.
const lastWord = "flip.warm-target.after"

// race tells the guest of one sector to do something just before it is stopped by a handoff, and returns how that ended: with success, or
// undone for a reason, but in good time.
func (s *scene) race(t *testing.T, letter string, way vmstate.Way, ahead time.Duration) vmstate.Migration {
	t.Helper()
	typed := false
	s.at(t, lastWord, func() error {
		err := s.Client.Type(t.Context(), s.vm.Name, []byte(letter))
		time.Sleep(ahead) // the race itself, not a wait
		typed = err == nil
		return err
	})
	m := s.vm.Wait(s.begin(t, vmstate.MigrationSpec{Binary: s.Env.QEMU(s.other()), Way: way}).ID)
	s.points.Func(lastWord, nil)
	switch {
	case !typed:
		t.Errorf("it was never told %q; the migration is %s: %+v", letter, m.Phase, m.Error)
	case m.Phase == vmstate.Completed:
	case m.Phase == vmstate.RolledBack && m.Error.Kind() == vmstate.Conflict && m.Error.Remedy != "":
	default:
		t.Errorf("it is %s: %+v", m.Phase, m.Error)
	}
	return m
}

// obeyed tells whether the guest has said that it obeys a letter, which it repeats first. One that was still on its way as the guest was
// stopped it has not heard yet.
func (s *scene) obeyed(t *testing.T, letter string, before int) bool {
	t.Helper()
	return strings.Count(s.said(t), letter) > before
}

// outcome describes the end of a race.
func outcome(m vmstate.Migration, obeyed bool) string {
	text := string(m.Phase)
	if m.Error != nil {
		text += " (" + m.Error.Detail + ")"
	}
	if !obeyed {
		text += ", not heard"
	}
	return text
}

// A guest that resets itself as it is handed over starts anew, once, wherever it is then.
func TestResetMeanwhile(t *testing.T) {
	s := newScene(t)
	s.startSector(t, "vm1")
	for _, way := range vmstate.Ways() {
		for _, ahead := range races() {
			t.Run(fmt.Sprintf("%s/%v", way, ahead), func(t *testing.T) {
				starts, heard := s.starts(t), strings.Count(s.said(t), "r")
				m := s.race(t, "r", way, ahead)
				s.listens(t) // after whatever it had to do
				obeyed := s.obeyed(t, "r", heard)
				t.Log(outcome(m, obeyed))
				if obeyed {
					starts++
				}
				s.awaitStarts(t, starts)
				s.listens(t)
				if got := s.starts(t); got != starts {
					t.Errorf("it has started %d times, want %d", got, starts)
				}
				s.hands(t, way)
			})
		}
	}
}

// A guest that powers off or panics as it is handed over ends: the migration has an end, and the VM is seen as stopped; nothing is left
// of either QEMU.
func TestEndMeanwhile(t *testing.T) {
	s := newScene(t)
	n := 0
	for _, way := range vmstate.Ways() {
		for _, letter := range []string{"p", "P"} {
			for _, ahead := range races() {
				t.Run(fmt.Sprintf("%s/%s/%v", way, letter, ahead), func(t *testing.T) {
					n++
					s.startSector(t, fmt.Sprintf("vm%d", n), "-device", "pvpanic")
					inode := s.vm.Show().Regions[0].Inode
					m := s.race(t, letter, way, ahead)
					obeyed := s.obeyed(t, letter, 0)
					t.Log(outcome(m, obeyed))
					if !obeyed { // it may hear this moment what came along with it, and be gone before it can be told again
						_ = s.Client.Type(t.Context(), s.vm.Name, []byte(letter))
					}
					s.ends(t)
					if who := holders(inode); len(who) > 0 {
						t.Errorf("its memory is open in %v", who)
					}
					if err := s.Client.RemoveVM(t.Context(), s.vm.Name, true); err != nil {
						t.Error(err)
					}
				})
			}
		}
	}
}

// ends waits until the VM is seen as stopped, without a QEMU.
func (s *scene) ends(t *testing.T) {
	t.Helper()
	s.Eventually("the VM has stopped", func() error {
		if vm := s.vm.Show(); vm.Status != vmstate.Stopped || vm.PID != 0 {
			return fmt.Errorf("it is %s with pid %d: %+v", vm.Status, vm.PID, vm.Error)
		}
		if left := children(); len(left) > 0 {
			return fmt.Errorf("processes %v are left", left)
		}
		return nil
	})
}

// With -no-shutdown and -action panic=pause QEMU stays when the guest has ended: it is as the guest left it, in one of the two.
func TestEndMeanwhileAndQEMUStays(t *testing.T) {
	s := newScene(t)
	s.startSector(t, "vm1", "-no-shutdown", "-action", "panic=pause", "-device", "pvpanic")
	for _, way := range vmstate.Ways() {
		for letter, state := range map[string]string{"p": "shutdown", "P": "guest-panicked"} {
			for _, ahead := range races() {
				t.Run(fmt.Sprintf("%s/%s/%v", way, state, ahead), func(t *testing.T) {
					starts, heard := s.starts(t), strings.Count(s.said(t), letter)
					m := s.race(t, letter, way, ahead)
					obeyed := s.obeyed(t, letter, heard)
					t.Log(outcome(m, obeyed))
					if !obeyed {
						s.tell(t, letter)
					}
					s.hasEnded(t, state)
					if left := children(); len(left) != 1 {
						t.Errorf("processes %v are left", left)
					}
					if _, err := s.Client.Reset(t.Context(), s.vm.Name); err != nil {
						t.Fatal(err)
					}
					if _, err := s.Client.Resume(t.Context(), s.vm.Name); err != nil {
						t.Fatal(err)
					}
					s.awaitStarts(t, starts+1)
				})
			}
		}
		s.hands(t, way)
	}
}

// hasEnded waits until the guest stands as it has ended. QEMU calls a guest paused that ends behind a stop, and postmigrate one whose
// migration was undone: it does not go on in either.
func (s *scene) hasEnded(t *testing.T, state string) {
	t.Helper()
	s.Eventually("the guest is "+state, func() error {
		if vm := s.vm.Show(); vm.Status != vmstate.Paused || !slices.Contains([]string{state, "paused", "postmigrate"}, vm.RunState) {
			return fmt.Errorf("it is %s, %s", vm.Status, vm.RunState)
		}
		return nil
	})
}

// What happens to a guest while its handoff is held is what the handoff finds when it goes on.
func TestMeanwhileHeld(t *testing.T) {
	s := newScene(t)
	s.startSector(t, "vm1", "-action", "panic=pause", "-device", "pvpanic")
	for _, way := range vmstate.Ways() {
		hold := func(t *testing.T) string {
			m := s.begin(t, vmstate.MigrationSpec{Binary: s.Env.QEMU(s.other()), Way: way, Hold: true})
			s.reach(t, m.ID, vmstate.Prepared)
			return m.ID
		}
		goOn := func(t *testing.T, id string) vmstate.Migration {
			if _, err := s.Client.Continue(t.Context(), id); err != nil {
				t.Fatal(err)
			}
			return s.vm.Wait(id)
		}
		t.Run(string(way)+"/resets itself", func(t *testing.T) {
			starts, id := s.starts(t), hold(t)
			s.tell(t, "r")
			s.awaitStarts(t, starts+1)
			if m := goOn(t, id); m.Phase != vmstate.Completed {
				t.Errorf("it is %s: %+v", m.Phase, m.Error)
			}
			s.listens(t)
		})
		t.Run(string(way)+"/is reset", func(t *testing.T) {
			starts, id := s.starts(t), hold(t)
			if _, err := s.Client.Reset(t.Context(), s.vm.Name); err != nil {
				t.Fatal(err)
			}
			s.awaitStarts(t, starts+1)
			if m := goOn(t, id); m.Phase != vmstate.Completed {
				t.Errorf("it is %s: %+v", m.Phase, m.Error)
			}
			s.listens(t)
		})
		t.Run(string(way)+"/panics", func(t *testing.T) {
			before, id := s.look(t), hold(t)
			s.tell(t, "P")
			s.becomes(t, "guest-panicked")
			want{kind: vmstate.Unsupported, step: "last-look", says: "guest-panicked"}.check(t, goOn(t, id))
			before.Status, before.RunState = vmstate.Paused, "guest-panicked"
			s.excuse(t, before)
			s.settle(t, before)
			starts := s.starts(t)
			for _, call := range []func() error{
				func() error { _, err := s.Client.Reset(t.Context(), s.vm.Name); return err },
				func() error { _, err := s.Client.Resume(t.Context(), s.vm.Name); return err },
			} {
				if err := call(); err != nil {
					t.Fatal(err)
				}
			}
			s.awaitStarts(t, starts+1)
		})
		t.Run(string(way)+"/is paused", func(t *testing.T) {
			id := hold(t)
			s.pauseSector(t)
			m := goOn(t, id)
			if m.Phase == vmstate.RolledBack && !s.canStand(way) {
				want{kind: vmstate.Unsupported, step: anyStep, says: "stands"}.check(t, m)
			} else if vm := s.vm.Show(); m.Phase != vmstate.Completed || vm.RunState != "paused" || m.PauseUS != nil {
				t.Errorf("it is %s, the guest %s, pause %s µs: %+v", m.Phase, vm.RunState, number(m.PauseUS), m.Error)
			}
			if _, err := s.Client.Resume(t.Context(), s.vm.Name); err != nil {
				t.Fatal(err)
			}
			s.listens(t)
			s.hands(t, way)
		})
	}
	t.Run("powers off", func(t *testing.T) {
		for i, way := range vmstate.Ways() {
			s.startSector(t, fmt.Sprintf("off%d", i))
			others := children()
			m := s.begin(t, vmstate.MigrationSpec{Binary: s.Env.QEMU(env.Newest), Way: way, Hold: true})
			s.reach(t, m.ID, vmstate.Prepared)
			pid := s.vm.Show().PID
			s.tell(t, "p")
			want{kind: vmstate.Conflict, step: anyStep, says: "its QEMU ended with status 0"}.check(t, s.vm.Wait(m.ID))
			s.Eventually("both QEMUs are gone", func() error {
				if vm := s.vm.Show(); vm.Status != vmstate.Stopped {
					return fmt.Errorf("the VM is %s: %+v", vm.Status, vm.Error)
				}
				if left := children(); len(left) != len(others)-1 || slices.Contains(left, pid) {
					return fmt.Errorf("processes %v are left", left)
				}
				return nil
			})
		}
	})
}

func (s *scene) pauseSector(t *testing.T) {
	t.Helper()
	if vm, err := s.Client.Pause(t.Context(), s.vm.Name); err != nil || vm.RunState != "paused" {
		t.Fatalf("after pause the guest is %s: %v", vm.RunState, err)
	}
}

// A Linux guest that reboots in the middle of it comes up again, and finds its memory well, by each way; and one that panics.
func linuxMeanwhile(t *testing.T, s *scene) {
	boots := 1
	for _, way := range vmstate.Ways() {
		for _, ahead := range []time.Duration{time.Millisecond, 20 * time.Millisecond} {
			t.Run(fmt.Sprintf("%s/reboots/%v", way, ahead), func(t *testing.T) {
				m := s.race(t, "reboot\n", way, ahead)
				t.Log(outcome(m, true))
				boots++
				typed := time.Now()
				s.Eventually("the guest has come up again", func() error {
					if time.Since(typed) > 3*time.Second && s.vm.Report().Boots[boots-2].Bye == nil { // the word was lost on its way
						typed = time.Now()
						s.vm.Type("reboot")
					}
					return s.rebooted(boots)
				})
				s.works(t, s.other(), way)
			})
		}
	}
	t.Run("panics", func(t *testing.T) { // without a device that tells QEMU: it just stands there, and is handed over as it is
		m := s.race(t, "panic\n", vmstate.WayDeviceState, 20*time.Millisecond)
		if m.Phase != vmstate.Completed {
			t.Errorf("it is %s: %+v", m.Phase, m.Error)
		}
		if vm := s.vm.Show(); vm.Status != vmstate.Running {
			t.Errorf("the guest is %s", vm.Status)
		}
	})
}

// rebooted is an error as long as the guest is not up for the nth time.
func (s *scene) rebooted(n int) error {
	r := s.vm.Report()
	if len(r.Boots) < n {
		return fmt.Errorf("it has come up %d times; %s", len(r.Boots), s.vm.Last())
	}
	if r.Boots[n-1].Fill == nil {
		return errors.New("it fills its memory")
	}
	return r.Check()
}
