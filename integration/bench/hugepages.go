package bench

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"qlive/vmstate"
)

const (
	hugePagesFile = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"
	// hugePagesLock is held by whoever changes the pool, so that tests and benchmarks of one machine put it back in order.
	hugePagesLock = "/tmp/qlive-hugepages.lock"
)

// ReserveHugePages makes the pool of 2 MiB pages larger by so many pages, and returns what puts it back.
func ReserveHugePages(pages int) (release func() error, err error) {
	lock, err := os.OpenFile(hugePagesLock, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot lock the huge pages: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot lock the huge pages: %w", err), lock.Close())
	}
	was, err := poolSize()
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	release = func() error { return errors.Join(setPool(was), lock.Close()) }
	err = setPool(was + pages)
	now, errRead := poolSize()
	if err = errors.Join(err, errRead); err == nil && now < was+pages {
		err = vmstate.Errorf(vmstate.Exhausted, "cannot have %d huge pages of 2 MiB: the kernel found %d", pages, now-was).
			With("free memory, or measure without the group pages")
	}
	if err != nil {
		return nil, errors.Join(err, release())
	}
	return release, nil
}

func poolSize() (int, error) {
	text, err := os.ReadFile(hugePagesFile)
	if err != nil {
		return 0, fmt.Errorf("cannot see the huge pages: %w", err)
	}
	return strconv.Atoi(strings.TrimSpace(string(text)))
}

func setPool(pages int) error {
	if err := os.WriteFile(hugePagesFile, []byte(strconv.Itoa(pages)), 0o644); err != nil {
		return fmt.Errorf("cannot set the huge pages: %w", err)
	}
	return nil
}
