package proc_test

import (
	"bytes"
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"

	"qlive/internal/proc"
)

func TestThisProcess(t *testing.T) {
	pids, err := proc.PIDs()
	if err != nil || !slices.Contains(pids, os.Getpid()) || !slices.Contains(pids, 1) {
		t.Errorf("the processes are %v, %v", pids, err)
	}
	sleep := exec.Command("sleep", "60")
	if err := sleep.Start(); err != nil {
		t.Fatal(err)
	}
	children, err := proc.Children(os.Getpid())
	if err != nil || !slices.ContainsFunc(children, func(s proc.Stat) bool { return s.PID == sleep.Process.Pid }) {
		t.Errorf("the children are %v, %v", children, err)
	}
	if err := sleep.Process.Kill(); err != nil {
		t.Error(err)
	}
	_ = sleep.Wait() // by the signal
	line, err := proc.ReadCmdline(os.Getpid())
	if err != nil || !bytes.HasPrefix(line, []byte(os.Args[0]+"\x00")) {
		t.Errorf("the command line is %q, %v", line, err)
	}
}

// A process that has just been begun began between two looks at the clock; the kernel counts in hundredths of a second.
func TestStartedAt(t *testing.T) {
	before := time.Now()
	sleep := exec.Command("sleep", "60")
	if err := sleep.Start(); err != nil {
		t.Fatal(err)
	}
	defer sleep.Wait() // by the signal
	defer sleep.Process.Kill()
	after := time.Now()
	stat, err := proc.ReadStat(sleep.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	const coarse = time.Second
	if at, err := proc.StartedAt(stat.Start); err != nil || at.Before(before.Add(-coarse)) || at.After(after.Add(coarse)) {
		t.Errorf("begun between %v and %v, said to have been at %v, %v", before, after, at, err)
	}
}
