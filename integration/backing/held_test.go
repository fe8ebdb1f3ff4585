package backing_test

import (
	"errors"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// inFlight is how much may be held twice: a chunk of 4 MiB for each worker.
func inFlight() uint64 { return uint64(min(runtime.GOMAXPROCS(0), 8)) * 4 * mib }

// inode names a file.
type inode struct{ dev, ino uint64 }

// owned is how much memory each file of a guest's RAM owns that this process, which is the daemon, has open.
func owned() (map[inode]uint64, error) {
	links, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return nil, err
	}
	files := map[inode]uint64{}
	for _, e := range links {
		path := "/proc/self/fd/" + e.Name()
		link, err := os.Readlink(path)
		if err != nil || !strings.Contains(link, "qlive-vm1-") {
			continue
		}
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			continue // closed meanwhile
		}
		files[inode{st.Dev, st.Ino}] = uint64(st.Blocks) * 512
	}
	return files, nil
}

// blocks is how much all of them own, while nothing is moved.
func blocks(t *testing.T) (total uint64) {
	t.Helper()
	files, err := owned()
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range files {
		total += n
	}
	return total
}

// sampler notes the most that is held, until it is stopped.
type sampler struct {
	old  map[inode]uint64 // what the guest has as the sampling begins
	stop chan struct{}
	done sync.WaitGroup
	most uint64
	err  error
}

func sample(t *testing.T) *sampler {
	t.Helper()
	s := &sampler{stop: make(chan struct{})}
	if s.old, s.err = owned(); s.err != nil {
		t.Fatal(s.err)
	}
	s.done.Go(func() {
		for last := false; ; {
			n, err := s.held()
			s.most, s.err = max(s.most, n), errors.Join(s.err, err)
			if last {
				return
			}
			select {
			case <-s.stop:
				last = true
			case <-time.After(500 * time.Microsecond):
			}
		}
	})
	return s
}

// held is how much was certainly held as the new files were looked at. Two files cannot be looked at in one instant, and what moves from one into the other
// between two looks would be seen in both. So the old ones are looked at before and after: as long as they only shrink, or only grow, what they had in between is
// no less than the smaller of the two. Where nothing is freed behind both are the same, and a second copy is seen whole.
func (s *sampler) held() (uint64, error) {
	earlier, err := owned()
	if err != nil {
		return 0, err
	}
	then, err := owned()
	if err != nil {
		return 0, err
	}
	later, err := owned()
	var total uint64
	for file, n := range then {
		if _, old := s.old[file]; !old {
			total += n
		}
	}
	for file := range s.old {
		total += min(earlier[file], later[file])
	}
	return total, err
}

// end is the most that was held.
func (s *sampler) end(t *testing.T) uint64 {
	t.Helper()
	close(s.stop)
	s.done.Wait()
	if s.err != nil {
		t.Fatal(s.err)
	}
	return s.most
}

// The sampler sees a second copy, and none where memory only moves.
func TestSampler(t *testing.T) {
	const size, chunk = 64 * mib, mib
	file := func(t *testing.T, name string, allocated int64) int {
		t.Helper()
		fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Close(fd) })
		if err := errors.Join(unix.Ftruncate(fd, size), unix.Fallocate(fd, unix.FALLOC_FL_KEEP_SIZE, 0, max(allocated, 1))); err != nil {
			t.Fatal(err)
		}
		return fd
	}
	for _, tt := range []struct {
		name        string
		free        bool
		least, most uint64
	}{{"freed behind", true, size, size + chunk}, {"a second copy", false, 2 * size, 2 * size}} {
		t.Run(tt.name, func(t *testing.T) {
			old := file(t, "qlive-vm1-old", size)
			s := sample(t)
			to := file(t, "qlive-vm1-new", 0)
			for at := int64(0); at < size; at += chunk {
				err := unix.Fallocate(to, 0, at, chunk)
				if tt.free {
					err = errors.Join(err, unix.Fallocate(old, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, at, chunk))
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			if most := s.end(t); most < tt.least || most > tt.most {
				t.Errorf("%d bytes are seen, no less than %d and no more than %d were held", most, tt.least, tt.most)
			}
		})
	}
}
