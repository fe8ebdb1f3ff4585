package qemu

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"qlive/internal/qemu/cmdline"
)

// WriteInput puts as much of input into the console's FIFO as there is room for, and says how much; it never waits. An error means that
// nobody reads there.
func WriteInput(c cmdline.Console, input []byte) (int, error) {
	// Without a reader there is ENXIO at once, instead of a wait.
	fd, err := unix.Open(c.Input, unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("cannot open %s: %w", c.Input, err)
	}
	defer unix.Close(fd)
	n, err := unix.Write(fd, input)
	if errors.Is(err, unix.EAGAIN) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("cannot write to %s: %w", c.Input, err)
	}
	return n, nil
}

// TakeInput takes back what was put into the console's FIFO and what the process, a QEMU that has it open, has not read. It never waits. If nobody
// writes any more, the QEMU has read all it ever will when TakeInput returns; what it has read is in its serial port, which is guest state.
//
// A QEMU asks whether there is something, and then reads, for which its main loop would wait if somebody else took it in between
// (chardev/char-fd.c; only the end it writes to is non-blocking). So its end of the FIFO is made non-blocking first.
func (p *Process) TakeInput(c cmdline.Console) ([]byte, error) {
	mine, err := unix.Open(c.Input, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open %s: %w", c.Input, err)
	}
	defer unix.Close(mine)
	if err := p.unblock(c.Input, mine); err != nil {
		return nil, err
	}
	var taken []byte
	buf := make([]byte, 64<<10) // what a FIFO holds, pipe(7)
	for {
		n, err := unix.Read(mine, buf)
		switch {
		case errors.Is(err, unix.EAGAIN), err == nil && n == 0: // the latter if the process has ended
			return taken, nil
		case err != nil:
			return taken, fmt.Errorf("cannot read %s: %w", c.Input, err)
		}
		taken = append(taken, buf[:n]...)
	}
}

// unblock makes the process's descriptors of the FIFO at path non-blocking; mine is one of this process.
func (p *Process) unblock(path string, mine int) error {
	dir := fmt.Sprintf("/proc/%d/fd", p.PID())
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("cannot list the descriptors of process %d: %w", p.PID(), err)
	}
	found := false
	for _, e := range entries {
		link, err := os.Readlink(filepath.Join(dir, e.Name()))
		number, errNumber := strconv.Atoi(e.Name())
		if err != nil || errNumber != nil || filepath.Base(link) != filepath.Base(path) {
			continue // closed meanwhile, or another file
		}
		same, err := p.unblockOne(number, mine)
		if err != nil {
			return fmt.Errorf("cannot make descriptor %d of process %d non-blocking: %w", number, p.PID(), err)
		}
		found = found || same
	}
	if !found {
		return fmt.Errorf("cannot find %s among the descriptors of process %d", path, p.PID())
	}
	return nil
}

// unblockOne makes a descriptor of the process non-blocking if it is of the same file as mine.
func (p *Process) unblockOne(number, mine int) (same bool, err error) {
	raw, err := p.pfd.SyscallConn()
	if err != nil {
		return false, err
	}
	theirs := -1
	if e := raw.Control(func(pidfd uintptr) { theirs, err = unix.PidfdGetfd(int(pidfd), number, 0) }); e != nil {
		return false, e
	}
	if err != nil {
		return false, err
	}
	defer unix.Close(theirs)
	var a, b unix.Stat_t
	if err := errors.Join(unix.Fstat(theirs, &a), unix.Fstat(mine, &b)); err != nil {
		return false, err
	}
	if a.Dev != b.Dev || a.Ino != b.Ino {
		return false, nil
	}
	return true, unix.SetNonblock(theirs, true)
}
