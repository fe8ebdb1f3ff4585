package qemu

import (
	"bytes"
	"strings"

	"qlive/internal/proc"
	"qlive/vmstate"
)

// Find looks for a process that was run with exactly these arguments, whatever stands before them: the binary's name, or a loader and the
// binary. They must be many enough to be nobody else's, as those of a QEMU are that name its own folder. It is for whoever started a
// process and died before he could write down which one it was. The error is of kind NotFound if there is none.
func Find(args []string) (Identity, error) {
	pids, err := proc.PIDs()
	if err != nil {
		return Identity{}, vmstate.Errorf(vmstate.Host, "cannot look through the processes: %w", err)
	}
	want := []byte("\x00" + strings.Join(args, "\x00") + "\x00")
	for _, pid := range pids {
		// The start time before and after: the process whose arguments these are.
		before, err := proc.ReadStat(pid)
		if err != nil || before.Ended() {
			continue
		}
		line, err := proc.ReadCmdline(pid)
		if err != nil || !bytes.HasSuffix(line, want) {
			continue
		}
		if after, err := proc.ReadStat(pid); err == nil && after.Start == before.Start {
			return Identity{PID: pid, Start: before.Start}, nil
		}
	}
	return Identity{}, vmstate.Errorf(vmstate.NotFound, "cannot find a process with the arguments of this QEMU")
}
