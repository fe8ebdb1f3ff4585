package room

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"qlive/vmstate"
)

// Room is what a file system has.
type Room struct {
	FreeBytes, TotalBytes uint64 // free for this process: what is kept for root counts only for root
	FreeFiles, TotalFiles uint64 // inodes; a total of 0 means that it does not count them, as btrfs
}

// Of is the room on the file system that path is on. The error is of kind Host.
func Of(path string) (Room, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return Room{}, vmstate.Errorf(vmstate.Host, "cannot see how much room there is at %s: %w", path, err)
	}
	block := uint64(st.Bsize)
	return Room{FreeBytes: st.Bavail * block, TotalBytes: st.Blocks * block, FreeFiles: st.Ffree, TotalFiles: st.Files}, nil
}

// Has tells whether so many bytes and files fit.
func (r Room) Has(bytes, files uint64) bool {
	return r.FreeBytes >= bytes && (r.TotalFiles == 0 || r.FreeFiles >= files)
}

// String is such as "12 KiB of 2.0 MiB and 40 of 512 files are free".
func (r Room) String() string {
	s := fmt.Sprintf("%s of %s", size(r.FreeBytes), size(r.TotalBytes))
	if r.TotalFiles != 0 {
		s += fmt.Sprintf(" and %d of %d files", r.FreeFiles, r.TotalFiles)
	}
	return s + " are free"
}

func size(n uint64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	value, unit := float64(n)/1024, 0
	for value >= 1024 && unit < len(units)-1 {
		value, unit = value/1024, unit+1
	}
	text := fmt.Sprintf("%.1f", value)
	return strings.TrimSuffix(text, ".0") + " " + units[unit:unit+1] + "iB"
}

// Full tells whether err says that a file system or a quota is used up.
func Full(err error) bool {
	return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)
}

// Explain adds the numbers of the file system that path is on to an error that says that it is full, which becomes one of kind
// Exhausted. Any other error, and nil, it gives back as it is.
func Explain(path string, err error) error {
	if err == nil || !Full(err) {
		return err
	}
	detail := err.Error()
	if r, looked := Of(path); looked == nil {
		detail += fmt.Sprintf(": on the file system of %s %s", path, r)
	}
	e := &vmstate.Error{Kind: vmstate.Exhausted, Detail: detail, Err: err, Remedy: "make room on the file system of " + path}
	if inner, ok := errors.AsType[*vmstate.Error](err); ok {
		e.VM, e.Migration, e.Step, e.Words = inner.VM, inner.Migration, inner.Step, inner.Words
	}
	return e
}

// Need is an error of kind Exhausted if fewer bytes or files than these fit on the file system that dir is on. What is what could not be
// done, such as "start vm1".
func Need(dir string, bytes, files uint64, what string) error {
	r, err := Of(dir)
	if err != nil || r.Has(bytes, files) {
		return err
	}
	return vmstate.Errorf(vmstate.Exhausted, "cannot %s: on the file system of %s %s, and %s and %d files are needed", what, dir, r, size(bytes), files).
		With("make room on the file system of " + dir)
}
