package qemu

import (
	"errors"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"qlive/vmstate"
)

// Schedule is on which CPUs and how urgently the kernel runs a thread (sched_getaffinity(2), sched_getattr(2)): policy, nice, priority.
type Schedule struct {
	cpus unix.CPUSet
	attr unix.SchedAttr
}

// ReadSchedule reads that of a thread, by its number; that of a process is its first thread's, 0 is the caller's own. The error is of Kind Host.
func ReadSchedule(thread int) (Schedule, error) {
	var s Schedule
	err := unix.SchedGetaffinity(thread, &s.cpus)
	if err == nil {
		var attr *unix.SchedAttr
		if attr, err = unix.SchedGetAttr(thread, 0); err == nil {
			s.attr = *attr
		}
	}
	if err != nil {
		return Schedule{}, vmstate.Errorf(vmstate.Host, "cannot see how thread %d is scheduled: %w", thread, err)
	}
	return s, nil
}

// Apply makes it a thread's, 0 for the caller's own; what the thread has already is not asked for. Threads that it starts from then on have it,
// too. The error is of Kind Host.
func (s Schedule) Apply(thread int) error {
	has, err := ReadSchedule(thread)
	if err != nil {
		return err
	}
	if has.cpus != s.cpus {
		err = unix.SchedSetaffinity(thread, &s.cpus)
	}
	if has.attr != s.attr {
		attr := s.attr // SchedSetAttr writes its size into it
		err = errors.Join(err, unix.SchedSetAttr(thread, &attr, 0))
	}
	if err != nil {
		return vmstate.Errorf(vmstate.Host, "cannot schedule thread %d as it was: %w", thread, err).With("root may; the CPUs must be online, and in the cpuset of the cgroup")
	}
	return nil
}

// scheduled calls f in a thread that has the schedule, which what f starts inherits; nil for any thread. A thread that cannot be given its own back
// (nice can be lowered by root alone) ends with it, since Go would run others in it.
func scheduled(s *Schedule, f func() error) error {
	if s == nil {
		return f()
	}
	done := make(chan error)
	go func() { // waited for below
		runtime.LockOSThread()
		own, err := ReadSchedule(0)
		if err == nil {
			err = s.Apply(0)
		}
		if err == nil {
			err = f()
		}
		if own.Apply(0) == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

// EnvironmentOf is what a process was given as its environment when it was started, without what belongs to a daemon, or to one build of QEMU alone
// (a wrapper script sets it, and the next build has its own). The error is of Kind Host.
func EnvironmentOf(pid int) ([]string, error) {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/environ")
	if err != nil {
		return nil, vmstate.Errorf(vmstate.Host, "cannot read the environment of process %d: %w", pid, cause(err))
	}
	env := environment(strings.FieldsFunc(string(text), func(c rune) bool { return c == 0 }))
	return slices.DeleteFunc(env, func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		return name == "QEMU_MODULE_DIR" || name == "LD_LIBRARY_PATH"
	}), nil
}
