package qemu

import (
	"bytes"
	"os"
	"strconv"
	"strings"

	"qlive/internal/proc"
	"qlive/vmstate"
)

// Find looks for a process that was run with exactly these arguments, whatever stands before them: the binary's name, or a loader and the
// binary. They must be many enough to be nobody else's, as those of a QEMU are that name its own folder. It is for whoever started a
// process and died before he could write down which one it was. The error is of kind NotFound if there is none.
func Find(args []string) (Identity, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return Identity{}, vmstate.Errorf(vmstate.Host, "cannot look through the processes: %w", err)
	}
	want := []byte("\x00" + strings.Join(args, "\x00") + "\x00")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		// The start time before and after: the process whose arguments these are.
		before, err := proc.ReadStat(pid)
		if err != nil || before.Ended() {
			continue
		}
		line, err := os.ReadFile("/proc/" + e.Name() + "/cmdline")
		if err != nil || !bytes.HasSuffix(line, want) {
			continue
		}
		if after, err := proc.ReadStat(pid); err == nil && after.Start == before.Start {
			return Identity{PID: pid, Start: before.Start}, nil
		}
	}
	return Identity{}, vmstate.Errorf(vmstate.NotFound, "cannot find a process with the arguments of this QEMU")
}
