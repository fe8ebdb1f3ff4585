package logfile

import (
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Open opens the text at path for reading. What is no plain file with one name is as good as missing: the error is [fs.ErrNotExist].
// The last part of the path alone is held to that; the folders before it are the daemon's.
func Open(path string) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	switch err {
	case nil:
	case unix.ELOOP, unix.ENXIO: // a symbolic link, a socket
		return nil, fmt.Errorf("cannot read %s: it is no plain file: %w", path, fs.ErrNotExist)
	default:
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return nil, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	if !plain(&st) {
		unix.Close(fd)
		return nil, fmt.Errorf("cannot read %s: it is no plain file: %w", path, fs.ErrNotExist)
	}
	return os.NewFile(uintptr(fd), path), nil
}

// Stat is the size in bytes of the text at path, and when it last changed; nothing where there is none that Open would open.
func Stat(path string) (size int64, changed time.Time) {
	var st unix.Stat_t
	if unix.Lstat(path, &st) != nil || !plain(&st) {
		return 0, time.Time{}
	}
	return st.Size, time.Unix(st.Mtim.Unix())
}

func plain(st *unix.Stat_t) bool { return st.Mode&unix.S_IFMT == unix.S_IFREG && st.Nlink <= 1 }
