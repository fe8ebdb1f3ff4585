package failures_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"qlive/integration/env"
	"qlive/integration/lab"
	"qlive/internal/qmp"
	"qlive/vmstate"
)

// sockets are the inodes of the sockets that a process has open.
func sockets(t *testing.T, pid int) []string {
	t.Helper()
	fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, fd := range fds {
		if link, err := os.Readlink(fd); err == nil && strings.HasPrefix(link, "socket:") {
			list = append(list, link)
		}
	}
	return list
}

// Between getfd and the switch each end of the channel is in one process, and nobody else has it: while anybody did, the death
// of the target would not free the source.
func nobodyElseHoldsTheChannel(t *testing.T, s *scene) {
	for _, way := range vmstate.Ways() {
		t.Run(string(way), func(t *testing.T) {
			source := s.vm.Show().PID
			before := sockets(t, source)
			m := s.begin(t, vmstate.MigrationSpec{Binary: s.Env.QEMU(s.other()), Way: way, Hold: true})
			target := s.reach(t, m.ID, vmstate.Prepared).To.PID
			given := slices.DeleteFunc(sockets(t, source), func(link string) bool { return slices.Contains(before, link) })
			ends := 1
			if way == vmstate.WayDeviceState {
				ends = 0 // it is qlive's, which composes the stream
			}
			if len(given) != ends {
				t.Errorf("the source has got the sockets %v, want %d", given, ends)
			}
			// The listener of its monitor, its end of that connection, its user's listener, its end of the channel; a console is no socket.
			own := sockets(t, target)
			if len(own) != 4 {
				t.Errorf("the target has the sockets %v", own)
			}
			for pid, links := range map[int][]string{source: given, target: own} {
				for _, link := range links {
					if who := openers(func(l string, _ *syscall.Stat_t) bool { return l == link }); !slices.Equal(who, []int{pid}) {
						t.Errorf("%s of process %d is open in %v", link, pid, who)
					}
				}
			}
			if _, err := s.Client.Continue(t.Context(), m.ID); err != nil {
				t.Fatal(err)
			}
			if m := s.vm.Wait(m.ID); m.Phase != vmstate.Completed {
				t.Errorf("it is %s: %+v", m.Phase, m.Error)
			}
			s.vm.CheckMemory()
		})
	}
}

// monitor is a second monitor of the source, which its user has asked for.
func (s *scene) monitor(t *testing.T) *qmp.Client {
	t.Helper()
	c, err := qmp.Dial(within(t), s.bin+"/monitor", qmp.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() }) // the source may be gone
	return c
}

// A target that hangs while it loads does not make the source hang: its monitor answers all the time, since the channel holds the whole
// stream. Else qlive could not undo anything.
func hungTargetLeavesTheSourceItsMonitor(t *testing.T, s *scene) {
	for _, way := range vmstate.Ways() {
		t.Run(string(way), func(t *testing.T) {
			before := s.look(t)
			monitor := s.monitor(t)
			s.at(t, "flip.switch.before", func() error { return s.strike(t, unix.SIGSTOP) })
			const limit = 600 // ms
			m := s.begin(t, vmstate.MigrationSpec{Binary: s.Env.QEMU(env.Newest), Way: way, MaxPauseMS: limit})
			s.reach(t, m.ID, vmstate.Switching)
			var answers, stopped int
			var slowest time.Duration
			for deadline := time.Now().Add(limit * 2 / 3 * time.Millisecond); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
				asked := time.Now()
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				status, err := monitor.QueryStatus(ctx)
				cancel()
				if err != nil {
					t.Fatalf("the source does not answer while the target hangs: %v", err)
				}
				answers++
				slowest = max(slowest, time.Since(asked))
				if !status.Running {
					stopped++
				}
			}
			t.Logf("%d answers, %d of them while the guest stood, the slowest after %v", answers, stopped, slowest)
			if stopped == 0 && way != vmstate.WayLive {
				t.Error("the guest did not stand")
			}
			m = s.vm.Wait(m.ID)
			want{kind: vmstate.Timeout, says: "max_pause_ms", step: "load"}.check(t, m)
			if err := monitor.Close(); err != nil {
				t.Error(err)
			}
			s.same(t, before)
		})
		s.works(t, env.Newest, way)
		s.works(t, env.Installed, way)
	}
}

// The death of the target frees the source at once: its migration ends, and the guest can go on.
func deathOfTheTargetFreesTheSource(t *testing.T, s *scene) {
	quickest := time.Hour
	for _, version := range []string{env.Installed, env.Newest} {
		if s.vm.Show().QEMU.Version != version {
			s.works(t, version, vmstate.WayStopFirst)
		}
		for _, way := range []vmstate.Way{vmstate.WayStopFirst, vmstate.WayLive} { // the only ones in which the source has a migration
			t.Run(version+"/"+string(way), func(t *testing.T) {
				before := s.look(t)
				monitor := s.monitor(t)
				s.at(t, "flip.switch.before", func() error { return s.strike(t, unix.SIGSTOP) })
				m := s.begin(t, vmstate.MigrationSpec{Binary: s.Env.QEMU(s.other()), Way: way})
				s.reach(t, m.ID, vmstate.Switching)
				s.Eventually("the source's migration is under way", func() error {
					status, err := monitor.QueryMigrate(t.Context())
					if err == nil && (status.Status.Ended() || status.Status == qmp.MigrationNone || status.Status == qmp.MigrationSetup) {
						err = errors.New("it is " + string(status.Status))
					}
					return err
				})
				killed := time.Now()
				if err := signal(s.target(t), unix.SIGKILL); err != nil {
					t.Fatal(err)
				}
				for {
					status, err := monitor.QueryMigrate(t.Context())
					if err != nil {
						t.Fatal(err)
					}
					if status.Status.Ended() || status.Status == qmp.MigrationNone {
						break
					}
				}
				took := time.Since(killed)
				quickest = min(quickest, took)
				s.Eventually("the guest runs", func() error {
					status, err := monitor.QueryStatus(t.Context())
					if err == nil && !status.Running {
						err = errors.New("it is " + string(status.Status))
					}
					return err
				})
				t.Logf("from SIGKILL to the end of the source's migration: %v; until the guest is seen to run: %v", took, time.Since(killed))
				if took > lab.Limit/2 { // without the rule it is for ever
					t.Errorf("the source was freed after %v", took)
				}
				want{kind: vmstate.QEMU, says: "was killed by signal 9", step: "load"}.check(t, s.vm.Wait(m.ID))
				if err := monitor.Close(); err != nil {
					t.Error(err)
				}
				s.same(t, before)
			})
		}
	}
	if quickest > 100*time.Millisecond { // one of them was not disturbed
		t.Errorf("the source was freed after %v at best", quickest)
	}
	s.works(t, s.other(), vmstate.WayLive)
}
