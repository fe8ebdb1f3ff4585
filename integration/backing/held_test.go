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

	"qlive/internal/proc"
)

// inFlight is how much may be held twice: a chunk of 4 MiB for each worker.
func inFlight() uint64 { return uint64(min(runtime.GOMAXPROCS(0), 8)) * 4 * mib }

// inFlightPages is how many huge pages of 2 MiB that is.
func inFlightPages() uint64 { return inFlight() / (2 * mib) }

// inode names a file.
type inode struct{ dev, ino uint64 }

// owns is how much memory a file owns.
type owns struct {
	bytes uint64
	huge  bool
}

// owned is how much memory each file of a guest's RAM owns that this process, which is the daemon, has open.
func owned() (map[inode]owns, error) {
	links, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return nil, err
	}
	files := map[inode]owns{}
	for _, e := range links {
		path := "/proc/self/fd/" + e.Name()
		link, err := os.Readlink(path)
		if err != nil || !strings.Contains(link, "qlive-vm1-") {
			continue
		}
		var st unix.Stat_t
		var fs unix.Statfs_t
		if errors.Join(unix.Stat(path, &st), unix.Statfs(path, &fs)) != nil {
			continue // closed meanwhile
		}
		files[inode{st.Dev, st.Ino}] = owns{uint64(st.Blocks) * 512, fs.Type == unix.HUGETLBFS_MAGIC}
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
		total += n.bytes
	}
	return total
}

// sampler notes the most that is held, until it is stopped: by what the files own, by what the pool of huge pages has given away, and by the private
// pages of the daemon and its QEMUs, in which the guest's RAM must not turn up either.
type sampler struct {
	old    map[inode]owns // what the guest has as the sampling begins
	others uint64         // huge pages that others have, bytes
	stop   chan struct{}
	done   sync.WaitGroup

	files, pool most
	anon        most
}

// most is the most of something.
type most struct {
	bytes uint64
	err   error
}

func (m *most) note(n uint64, err error) { m.bytes, m.err = max(m.bytes, n), errors.Join(m.err, err) }

func sample(t *testing.T) *sampler {
	t.Helper()
	old, err := owned()
	if err != nil {
		t.Fatal(err)
	}
	used, err := usedPages()
	if err != nil {
		t.Fatal(err)
	}
	s := &sampler{old: old, others: used, stop: make(chan struct{})}
	for _, n := range old {
		if n.huge {
			s.others -= n.bytes
		}
	}
	s.every(500*time.Microsecond, func() { s.files.note(s.held()) })
	s.every(500*time.Microsecond, func() { s.pool.note(s.inUse()) })
	s.every(20*time.Millisecond, func() { s.anon.note(anonymous()) })
	return s
}

// every looks again and again, and once more at the end.
func (s *sampler) every(pause time.Duration, look func()) {
	s.done.Go(func() {
		for last := false; !last; {
			select {
			case <-s.stop:
				last = true
			case <-time.After(pause):
			}
			look()
		}
	})
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
			total += n.bytes
		}
	}
	for file := range s.old {
		total += min(earlier[file].bytes, later[file].bytes)
	}
	return total, err
}

// inUse is the same by the pool's counters, for the huge pages: the test has the pool for itself. They are looked at before and after the files of ordinary pages.
func (s *sampler) inUse() (uint64, error) {
	before, err := usedPages()
	if err != nil {
		return 0, err
	}
	files, err := owned()
	if err != nil {
		return 0, err
	}
	after, err := usedPages()
	total := min(before, after) - s.others
	for _, n := range files {
		if !n.huge {
			total += n.bytes
		}
	}
	return total, err
}

// usedPages is how much the pool of huge pages of 2 MiB has given away, bytes.
func usedPages() (uint64, error) {
	m, err := proc.ReadMeminfo()
	return (m.HugePages - min(m.HugePages, m.HugePagesFree)) * m.HugePageBytes, err
}

// anonymous is how much private memory this process, which is the daemon, and its QEMUs have. One that ends meanwhile has none.
func anonymous() (total uint64, err error) {
	children, err := proc.Children(os.Getpid())
	pids := []int{os.Getpid()}
	for _, c := range children {
		pids = append(pids, c.PID)
	}
	for _, pid := range pids {
		if s, err := proc.ReadStatus(pid); err == nil {
			total += s.RSSAnon
		}
	}
	return total, err
}

// end stops the sampling.
func (s *sampler) end(t *testing.T) {
	t.Helper()
	close(s.stop)
	s.done.Wait()
	if err := errors.Join(s.files.err, s.pool.err, s.anon.err); err != nil {
		t.Fatal(err)
	}
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
			s.end(t)
			if n := s.files.bytes; n < tt.least || n > tt.most {
				t.Errorf("%d bytes are seen, no less than %d and no more than %d were held", n, tt.least, tt.most)
			}
		})
	}
}
