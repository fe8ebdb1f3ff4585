package qemu

import (
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"qlive/internal/qemu/cmdline"
	"qlive/vmstate"
)

// MakePlaces makes what a QEMU needs in its generation's folder, and gives it to the user that it runs as:
//
//   - the folder itself stays the daemon's, who keeps logs there: QEMU passes through and can put nothing in it, in the place of a
//     log, say;
//   - the folder that line's sockets and other names are made in is QEMU's own;
//   - of each console a FIFO to read from and an empty file to write to are QEMU's, but not the names they stand under.
//
// Errors are of Kind Host.
func MakePlaces(dir string, line *cmdline.Line, u *User) error {
	err := os.MkdirAll(dir, 0o700)
	if err == nil {
		err = u.Enter(dir)
	}
	if err == nil {
		err = os.Mkdir(filepath.Dir(line.Monitor), 0o700)
	}
	if err == nil {
		err = u.own(filepath.Dir(line.Monitor))
	}
	if err != nil {
		return vmstate.Errorf(vmstate.Host, "cannot make the folder of the QEMU: %w", err).With("make room in the run directory")
	}
	for _, c := range line.Consoles {
		err := unix.Mkfifo(c.Input, 0o600)
		if err == nil {
			err = os.WriteFile(c.Log, nil, 0o600)
		}
		for _, path := range []string{c.Input, c.Log} {
			if err == nil {
				err = u.own(path)
			}
		}
		if err != nil {
			return vmstate.Errorf(vmstate.Host, "cannot make the console %s: %w", c.ID, err).With("make room in the run directory")
		}
	}
	return nil
}

// Enter lets the user's QEMU pass through a folder of the daemon's, and see nothing of what else is in it.
func (u *User) Enter(dir string) error {
	if u == nil {
		return nil
	}
	if err := os.Lchown(dir, -1, u.GID); err != nil {
		return err
	}
	return os.Chmod(dir, 0o710)
}
