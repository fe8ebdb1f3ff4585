package qemu

import (
	"os/exec"
	"testing"

	"qlive/internal/proc"
	"qlive/vmstate"
)

// A process is found by all of its arguments, whatever stands before them, and by nothing less.
func TestFind(t *testing.T) {
	args := []string{"-c", "read x # of nobody else 7181", "a", "", "b"}
	cmd := exec.Command("/bin/sh", args...)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { in.Close(); _ = cmd.Wait() }()
	stat, err := proc.ReadStat(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	want := Identity{PID: cmd.Process.Pid, Start: stat.Start}
	for _, tail := range [][]string{args, args[1:]} {
		if got, err := Find(tail); err != nil || got != want {
			t.Errorf("%q: %+v, %v, want %+v", tail, got, err, want)
		}
	}
	for _, other := range [][]string{args[:4], {"-c", "of nobody else 7181", "a", "", "b"}} {
		if got, err := Find(other); vmstate.KindOf(err) != vmstate.NotFound {
			t.Errorf("%q: %+v, %v", other, got, err)
		}
	}
}
