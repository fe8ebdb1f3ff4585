package systemd

import (
	"errors"
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"qlive/vmstate"
)

// File is a descriptor that the manager passed on, under the name that its socket unit or whoever stored it gave it.
type File struct {
	Name string
	*os.File
}

// received is what has been passed on and nobody has taken yet.
type received struct {
	mu    sync.Mutex
	files []File
}

// maxFDs is more descriptors than a process can have by default (fs.nr_open).
const maxFDs = 1 << 20

// files are the descriptors passed on to this process, if any: LISTEN_FDS of them, named by LISTEN_FDNAMES.
func (e Environment) files() ([]File, error) {
	names := e.take(listenNames)
	_ = e.take(listenPIDFD)
	mine, err := e.mine(listenPID)
	count, countErr := e.number(listenFDs, maxFDs)
	if err := errors.Join(err, countErr); err != nil || !mine || count == 0 {
		return nil, err
	}
	list, err := parseNames(names, int(count))
	if err != nil {
		return nil, err
	}
	files := make([]File, 0, count)
	for i, name := range list {
		fd := e.FirstFD + i
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, unix.FD_CLOEXEC); err != nil {
			return files, vmstate.Errorf(vmstate.Invalid, "cannot take over descriptor %d, %q, from the service manager: %w", fd, name, err).
				With("leave it to the service manager to set " + listenFDs)
		}
		files = append(files, File{name, os.NewFile(uintptr(fd), name)})
	}
	return files, nil
}

// parseNames splits LISTEN_FDNAMES, which is colon-separated and as long as there are descriptors. Managers before systemd 227 do not
// set it: then all names are empty.
func parseNames(names string, count int) ([]string, error) {
	if names == "" {
		return make([]string, count), nil
	}
	list := strings.Split(names, ":")
	if len(list) != count {
		return nil, vmstate.Errorf(vmstate.Invalid, "cannot tell the descriptors apart that the service manager passes on: %d names in %s=%q for %d of them", len(list), listenNames, names, count).
			With("leave it to the service manager to set " + listenNames)
	}
	return list, nil
}

// Take hands out all descriptors that choose says yes to, in the order they were passed on. They are the caller's from now on; a
// second call does not find them.
func (s *Service) Take(choose func(File) bool) []File {
	if s == nil {
		return nil
	}
	r := &s.received
	r.mu.Lock()
	defer r.mu.Unlock()
	var taken, left []File
	for _, f := range r.files {
		if choose(f) {
			taken = append(taken, f)
		} else {
			left = append(left, f)
		}
	}
	r.files = left
	return taken
}

func (r *received) close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var errs []error
	for _, f := range r.files {
		errs = append(errs, f.Close())
	}
	r.files = nil
	return errors.Join(errs...)
}
