package adopt_test

import (
	"context"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"qlive/internal/qemu"
	"qlive/internal/qmp"
)

// pin lets a process run a little nicer than others, on one CPU alone, and its guest's first virtual CPU on another, if there is one.
func (s *stranger) pin() {
	s.t.Helper()
	var all, process, vcpu unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		s.t.Fatal(err)
	}
	for cpu := range len(all) * 64 {
		if all.IsSet(cpu) && process.Count() == 0 {
			process.Set(cpu)
		}
		if all.IsSet(cpu) {
			vcpu.Zero()
			vcpu.Set(cpu)
		}
	}
	threads, err := os.ReadDir("/proc/" + itoa(s.pid()) + "/task")
	if err != nil {
		s.t.Fatal(err)
	}
	for _, thread := range threads {
		if err := unix.SchedSetaffinity(atoi(s.t, thread.Name()), &process); err != nil {
			s.t.Fatal(err)
		}
	}
	if err := unix.Setpriority(unix.PRIO_PROCESS, s.pid(), 3); err != nil {
		s.t.Fatal(err)
	}
	s.ask(func(ctx context.Context, c *qmp.Client) error {
		cpus, err := c.QueryCPUsFast(ctx)
		if err == nil {
			err = unix.SchedSetaffinity(cpus[0].ThreadID, &vcpu)
		}
		return err
	})
}

// amid is what a QEMU has around it.
type amid struct {
	process, vcpu qemu.Schedule
	env           []string
}

// amid reads it of a process whose monitor is the stranger's, at its path.
func (s *stranger) amid(pid int) (a amid) {
	s.t.Helper()
	var err error
	if a.process, err = qemu.ReadSchedule(pid); err != nil {
		s.t.Fatal(err)
	}
	if a.env, err = qemu.EnvironmentOf(pid); err != nil {
		s.t.Fatal(err)
	}
	threads, err := os.ReadDir("/proc/" + itoa(pid) + "/task")
	if err != nil {
		s.t.Fatal(err)
	}
	for _, thread := range threads { // the one that QEMU calls that way
		comm, err := os.ReadFile("/proc/" + itoa(pid) + "/task/" + thread.Name() + "/comm")
		if err == nil && strings.HasPrefix(string(comm), "CPU 0/") {
			if a.vcpu, err = qemu.ReadSchedule(atoi(s.t, thread.Name())); err != nil {
				s.t.Fatal(err)
			}
		}
	}
	return a
}

// checkAmid sees that another QEMU has around it what one had.
func checkAmid(t *testing.T, was, is amid) {
	t.Helper()
	if was.process != is.process || was.vcpu != is.vcpu {
		t.Errorf("it was scheduled as %+v and is as %+v", was, is)
	}
	if was.vcpu == (qemu.Schedule{}) {
		t.Error("there is no thread of a virtual CPU")
	}
	if slices.ContainsFunc(is.env, func(v string) bool { return strings.HasPrefix(v, "HOME=") }) || !slices.Contains(is.env, theirs) { // the daemon has the one
		t.Errorf("the environment was\n%q\nand is\n%q", was.env, is.env)
	}
}

// theirs is in the environment of every stranger.
const theirs = "STRANGER=theirs"
