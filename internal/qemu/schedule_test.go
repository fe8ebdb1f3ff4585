package qemu_test

import (
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"qlive/internal/qemu"
)

// TestSchedule: a process that is started with another one's schedule and environment has them from its first thread on, and this process, which
// starts it, keeps its own.
func TestSchedule(t *testing.T) {
	sleep := qemu.Command{Binary: admit(t, "/bin/sleep"), Args: []string{"1000"}, Env: []string{"A=b", "EMPTY=", "LISTEN_FDS=1", "QEMU_MODULE_DIR=/x"}}
	first := begin(t, sleep)
	own, err := qemu.ReadSchedule(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	var cpus unix.CPUSet
	if err := unix.SchedGetaffinity(0, &cpus); err != nil {
		t.Fatal(err)
	}
	for cpu := 0; cpus.Count() > 1; cpu++ {
		cpus.Clear(cpu)
	}
	if err := unix.SchedSetaffinity(first.PID(), &cpus); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setpriority(unix.PRIO_PROCESS, first.PID(), 7); err != nil {
		t.Fatal(err)
	}
	was, err := qemu.ReadSchedule(first.PID())
	if err != nil || was == own {
		t.Fatalf("it is %+v, %v", was, err)
	}
	arguments(t, first) // it is the program by then
	if sleep.Env, err = qemu.EnvironmentOf(first.PID()); err != nil || !slices.Equal(sleep.Env, []string{"A=b", "EMPTY="}) {
		t.Errorf("its environment is %q, %v", sleep.Env, err)
	}
	sleep.Schedule = &was
	second := begin(t, sleep)
	if is, err := qemu.ReadSchedule(second.PID()); err != nil || is != was {
		t.Errorf("it is %+v, %v, want %+v", is, err, was)
	}
	if now, err := qemu.ReadSchedule(os.Getpid()); err != nil || now != own {
		t.Errorf("this process was %+v and is %+v, %v", own, now, err)
	}
	if err := own.Apply(second.PID()); err != nil {
		t.Fatal(err)
	}
	if is, err := qemu.ReadSchedule(second.PID()); err != nil || is != own {
		t.Errorf("put back it is %+v, %v", is, err)
	}
	if _, err := qemu.ReadSchedule(1 << 30); err == nil {
		t.Error("a thread that is not there has a schedule")
	}
	if _, err := qemu.EnvironmentOf(1 << 30); err == nil {
		t.Error("a process that is not there has an environment")
	}
}
