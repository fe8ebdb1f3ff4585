package logfile

import (
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// chunk is what is dropped at once, in bytes, so that a text which grows is not trimmed for every line: a multiple of any file system's blocks.
const chunk = 64 << 10

// Trim drops the oldest of a text that stands in several files, one after the other, so that it takes little more than keep bytes. What is
// dropped gives back its memory while its writer goes on as before: the offsets of the rest stay what they are. It needs a file
// system that can punch holes; tmpfs can.
func Trim(paths []string, keep int64) error {
	var errs []error
	for _, path := range slices.Backward(paths) {
		info := Stat(path)
		begin := max(info.Begin, info.End-keep) / chunk * chunk
		if keep == 0 {
			begin = (info.End + chunk - 1) / chunk * chunk // nothing of it
		}
		if begin > info.Begin {
			errs = append(errs, punch(path, begin))
		}
		keep -= min(keep, info.Size())
	}
	return errors.Join(errs...)
}

// punch drops what stands before end.
func punch(path string, end int64) error {
	f, err := open(path, unix.O_RDWR)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, end); err != nil {
		return fmt.Errorf("cannot drop the beginning of %s: %w", path, err)
	}
	return nil
}
