package move

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"qlive/flip/memory"
	"qlive/vmstate"
)

// mount is a folder on a hugetlbfs for the test alone.
func mount(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "hugetlbfs", unix.MS_NOSUID|unix.MS_NODEV, "pagesize=2M,mode=0700"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// remade is a scene of huge pages that are moved into others of the same pool.
func remade(t fataler, dir, folder string, size uint64, workers int) *scene {
	t.Helper()
	s := &scene{
		old: create(t, vmstate.Hugetlb, []uint64{size}), path: filepath.Join(dir, "moves"), chunk: 4 * mib, workers: workers, want: [][]byte{make([]byte, size)},
	}
	var err error
	if s.to, err = memory.Remake(s.old, vmstate.MemorySpec{Backing: vmstate.Hugetlbfs, Path: folder}, "vm1"); err != nil {
		t.Fatal(errors.Join(err, s.old.Close()))
	}
	return s
}

// with calls f with a mover whose n-th hit is cut short, if n is one.
func (s *scene) with(t fataler, n int64, f func(*Mover) error) {
	t.Helper()
	l := s.ledger(t)
	m, err := New(Config{Old: s.old, New: s.to, Ledger: l, Workers: s.workers, Hit: cutAt(n)})
	if err != nil {
		t.Fatal(err)
	}
	if err := f(m); err != nil && !errors.Is(err, errCut) {
		t.Fatal(err)
	}
	s.check(t, l)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

// Huge pages are moved, and moved back, within a pool that has no more than the chunks in flight besides them, holes or not, whatever is cut short and however
// often.
func TestTightPool(t *testing.T) {
	const pages, workers, inFlight = 12, 2, 4
	pool(t, pages+inFlight)
	folder := mount(t)
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp("", "qlive-move-")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		s := remade(t, dir, folder, pages*2*mib, workers)
		defer s.close(t)
		for _, page := range rapid.SliceOfNDistinct(rapid.Uint64Range(0, pages-1), 0, pages, rapid.ID[uint64]).Draw(t, "touched") {
			s.fill(t, 0, page*2*mib, 4096, page)
		}
		side := InNew
		for i := range rapid.IntRange(0, 4).Draw(t, "cuts") {
			estimated := i == 0 && rapid.Bool().Draw(t, "estimated")
			s.with(t, rapid.Int64Range(1, 3*pages/2).Draw(t, "cut"), func(m *Mover) error {
				if estimated {
					if err := m.Promise(); err != nil {
						return err
					}
					if _, err := m.Estimate(context.Background()); err != nil {
						return err
					}
				}
				return m.Run(context.Background(), side)
			})
			side = InOld
		}
		s.finish(t, side, 0)
	})
}

// In the end the whole of the new file is promised, and what the old one keeps for the way back goes with it. A pool that has less than the chunks in
// flight is found before anything is moved.
func TestPromisesFollow(t *testing.T) {
	const pages, workers, inFlight = 12, 2, 4
	pool(t, pages+inFlight)
	folder := mount(t)
	for _, touched := range []uint64{pages, 3} {
		s := remade(t, t.TempDir(), folder, pages*2*mib, workers)
		for page := range touched {
			s.fill(t, 0, page*2*mib, 4096, page)
		}
		other := create(t, vmstate.Hugetlb, []uint64{2 * mib})
		before := free(t)
		s.with(t, 0, func(m *Mover) error {
			if err := m.Promise(); !memory.IsShort(err) {
				t.Errorf("%d pages are enough for %d bytes: %v", before, m.InFlightBytes(), err)
			}
			if n := free(t); n != before {
				t.Errorf("%d pages are free, there were %d", n, before)
			}
			if err := other.Close(); err != nil {
				return err
			}
			return errors.Join(m.Promise(), m.Run(t.Context(), InNew))
		})
		if n := free(t); n != 0 {
			t.Errorf("%d pages are free of what the way back needs", n)
		}
		if err := s.old.Close(); err != nil {
			t.Error(err)
		}
		if n := free(t); n != inFlight {
			t.Errorf("%d pages are free, so that not all of the new file is promised", n)
		}
		s.close(t)
	}
}

// free is how many huge pages of 2 MiB nobody has, nor has been promised.
func free(t *testing.T) int {
	t.Helper()
	return pages2M(t, "free_hugepages") - pages2M(t, "resv_hugepages")
}
