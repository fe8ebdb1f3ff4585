package qemu

import (
	"os"

	"golang.org/x/sys/unix"

	"qlive/internal/qemu/cmdline"
	"qlive/vmstate"
)

// MakeConsoles makes what QEMU finds when it opens the consoles of a line: a FIFO to read from and an empty file to write to, in the
// generation's folder. Errors are of Kind Host.
func MakeConsoles(line *cmdline.Line) error {
	for _, c := range line.Consoles {
		err := unix.Mkfifo(c.Input, 0o600)
		if err == nil {
			err = os.WriteFile(c.Log, nil, 0o600)
		}
		if err != nil {
			return vmstate.Errorf(vmstate.Host, "cannot make the console %s: %w", c.ID, err).With("make room in the run directory")
		}
	}
	return nil
}
