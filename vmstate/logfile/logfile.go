package logfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Open opens the text at path for reading. What is no plain file with one name is as good as missing: the error is [fs.ErrNotExist].
// The last part of the path alone is held to that; the folders before it are the daemon's.
func Open(path string) (*os.File, error) { return open(path, unix.O_RDONLY) }

func open(path string, mode int) (*os.File, error) {
	fd, err := unix.Open(path, mode|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	switch err {
	case nil:
	case unix.ELOOP, unix.ENXIO, unix.EISDIR: // a symbolic link, a socket or a FIFO, a folder
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

// Info says what there is of a text. All is zero where there is none that Open would open.
type Info struct {
	Begin   int64 // offset in bytes of the first that is there: what stood before has been dropped by Trim, and reads as zeros
	End     int64 // offset of the end
	Changed time.Time
}

// Size is how many bytes there are.
func (i Info) Size() int64 { return i.End - i.Begin }

// Stat says what there is of the text at path.
func Stat(path string) Info {
	var st unix.Stat_t
	if unix.Lstat(path, &st) != nil || !plain(&st) {
		return Info{}
	}
	info := Info{End: st.Size, Changed: time.Unix(st.Mtim.Unix())}
	if st.Blocks*512 >= st.Size {
		return info // without holes
	}
	f, err := Open(path)
	if err != nil {
		return info
	}
	defer f.Close()
	switch begin, err := unix.Seek(int(f.Fd()), 0, unix.SEEK_DATA); {
	case err == nil:
		info.Begin = min(begin, info.End)
	case errors.Is(err, unix.ENXIO): // a hole to the end
		info.Begin = info.End
	}
	return info
}

func plain(st *unix.Stat_t) bool { return st.Mode&unix.S_IFMT == unix.S_IFREG && st.Nlink <= 1 }
