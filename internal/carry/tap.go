package carry

import (
	"errors"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// watchTick is how often a tap is looked at: a frame that is read or written in between is misread.
const watchTick = time.Millisecond

// KeepTaps keeps the header length of taps as it is now (TUNSETVNETHDRSZ). What it returns ends that, and has set it a last time by then; it may be
// called once.
func KeepTaps(taps []*os.File) (stop func()) {
	ended := make(chan struct{})
	var all sync.WaitGroup
	for _, f := range taps {
		was, err := headerLength(f)
		if err != nil {
			continue // it has none
		}
		all.Go(func() {
			tick := time.NewTicker(watchTick)
			defer tick.Stop()
			for over := false; !over; {
				select {
				case <-ended:
					over = true
				case <-tick.C:
				}
				if is, err := headerLength(f); err == nil && is != was {
					_ = setHeaderLength(f, was) // as it had been before
				}
			}
		})
	}
	return func() {
		close(ended)
		all.Wait()
	}
}

// HeaderLengths are those of taps, 0 for what has none.
func HeaderLengths(taps []*os.File) []int {
	var list []int
	for _, f := range taps {
		n, _ := headerLength(f) // 0
		list = append(list, n)
	}
	return list
}

// SetHeaderLengths sets those of as many taps, for a QEMU that runs its guest while the one is dead that was started beside it.
func SetHeaderLengths(taps []*os.File, lengths []int) error {
	var errs []error
	for i, f := range taps {
		if i < len(lengths) && lengths[i] > 0 {
			errs = append(errs, setHeaderLength(f, lengths[i]))
		}
	}
	return errors.Join(errs...)
}

func headerLength(f *os.File) (n int, err error) {
	err = control(f, func(fd int) error {
		v, err := unix.IoctlGetUint32(fd, unix.TUNGETVNETHDRSZ)
		n = int(v)
		return err
	})
	return n, err
}

func setHeaderLength(f *os.File, n int) error {
	return control(f, func(fd int) error { return unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, n) })
}

// control calls do with the descriptor, which stays as it is: others have it, too.
func control(f *os.File, do func(fd int) error) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	e := raw.Control(func(fd uintptr) { err = do(int(fd)) })
	if e != nil {
		return e
	}
	return err
}
