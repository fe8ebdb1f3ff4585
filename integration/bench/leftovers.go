package bench

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"qlive/internal/proc"
)

// endLeftovers kills every process whose command line names dir, and waits until it is gone. The folder was made for this run
// alone, so they are its own: QEMUs of a daemon that was interrupted in the middle of a handoff, or that has died.
func endLeftovers(dir string) error {
	pids, err := proc.PIDs()
	if err != nil {
		return err
	}
	var errs []error
	for _, pid := range pids {
		if pid == os.Getpid() || !names(pid, dir) {
			continue
		}
		if err := endLeftover(pid, dir); err != nil {
			errs = append(errs, fmt.Errorf("cannot end process %d: %w", pid, err))
		}
	}
	return errors.Join(errs...)
}

// names tells whether the command line of a process names dir; it does not once the process has ended.
func names(pid int, dir string) bool {
	text, err := proc.ReadCmdline(pid)
	return err == nil && bytes.Contains(text, []byte(dir))
}

// endLeftover holds the process by a pidfd before it looks a second time, so that no other process of the same number is hit.
func endLeftover(pid int, dir string) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if !names(pid, dir) {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return err
	}
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(startLimit.Milliseconds()))
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return err
		case n == 0:
			return fmt.Errorf("it is still there %s after it was killed", startLimit)
		default:
			return nil
		}
	}
}

// unmountLeftovers unmounts what is mounted below dir: the tree of a daemon that was killed.
func unmountLeftovers(dir string) error {
	mounts, err := proc.ReadMounts()
	if err != nil {
		return err
	}
	var errs []error
	for _, m := range mounts {
		if !strings.HasPrefix(m.Point, dir+"/") {
			continue
		}
		if err := unix.Unmount(m.Point, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			errs = append(errs, fmt.Errorf("cannot unmount %s: %w", m.Point, err))
		}
	}
	return errors.Join(errs...)
}
