package move

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"qlive/flip/memory"
	"qlive/vmstate"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const mib = 1 << 20

// pool gives the host so many free huge pages of 2 MiB for this test alone, and puts everything back.
func pool(t *testing.T, pages int) {
	t.Helper()
	lock, err := os.OpenFile("/tmp/qlive-hugepages.lock", os.O_RDWR|os.O_CREATE, 0o666)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	was := pages2M(t, "nr_hugepages")
	set := func(n int) {
		if err := os.WriteFile(pool2M+"nr_hugepages", []byte(fmt.Sprint(n)), 0); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(func() {
		if free, resv := pages2M(t, "free_hugepages"), pages2M(t, "resv_hugepages"); free-resv < pages {
			t.Errorf("%d huge pages are free and %d of them reserved, want %d to be left", free, resv, pages)
		}
		set(was)
		lock.Close()
	})
	set(was - (pages2M(t, "free_hugepages") - pages2M(t, "resv_hugepages")) + pages)
	if free := pages2M(t, "free_hugepages") - pages2M(t, "resv_hugepages"); free < pages {
		t.Fatalf("the host has %d huge pages for this test, it wants %d", free, pages)
	}
}

const pool2M = "/sys/kernel/mm/hugepages/hugepages-2048kB/"

func pages2M(t *testing.T, file string) (n int) {
	t.Helper()
	text, err := os.ReadFile(pool2M + file)
	if err == nil {
		_, err = fmt.Sscan(string(text), &n)
	}
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// fataler is what tests of both kinds have.
type fataler interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

func create(t fataler, backing vmstate.Backing, sizes []uint64) *memory.Set {
	t.Helper()
	var wants []memory.Want
	for i, size := range sizes {
		wants = append(wants, memory.Want{Name: fmt.Sprint("ram", i), SizeBytes: size})
	}
	set, err := memory.Create(vmstate.MemorySpec{Backing: backing}, "vm1", wants)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// scene is two sets and what must be in them.
type scene struct {
	old, to *memory.Set
	want    [][]byte
	path    string
	chunk   uint64
	workers int // 0 for as many as there are by themselves
}

func newScene(t fataler, dir string, from, to vmstate.Backing, sizes []uint64, chunk uint64) *scene {
	s := &scene{old: create(t, from, sizes), to: create(t, to, sizes), path: filepath.Join(dir, "moves"), chunk: chunk}
	for _, size := range sizes {
		s.want = append(s.want, make([]byte, size))
	}
	return s
}

func (s *scene) close(t fataler) {
	t.Helper()
	if err := errors.Join(s.old.Close(), s.to.Close()); err != nil {
		t.Fatal(err)
	}
}

// put writes into a set. Files of huge pages take no write, so that it goes by a mapping.
func put(t fataler, set *memory.Set, region int, at uint64, text []byte) {
	t.Helper()
	r := set.Regions()[region]
	room, err := unix.Mmap(int(r.File().Fd()), 0, int(r.SizeBytes()), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_NORESERVE)
	if err != nil {
		t.Fatal(err)
	}
	copy(room[at:], text)
	if err := unix.Munmap(room); err != nil {
		t.Fatal(err)
	}
}

func (s *scene) fill(t fataler, region int, at, n uint64, seed uint64) {
	t.Helper()
	text := make([]byte, n)
	random := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), 1})
	random.Read(text)
	copy(s.want[region][at:], text)
	put(t, s.old, region, at, text)
}

func (s *scene) ledger(t fataler) *Ledger {
	t.Helper()
	l, err := OpenLedger(s.path)
	if err == nil {
		return l
	}
	p, err := PlanOf("mig-1", s.old, s.to)
	if err != nil {
		t.Fatal(err)
	}
	p.ChunkBytes = s.chunk
	if l, err = CreateLedger(s.path, p); err != nil {
		t.Fatal(err)
	}
	return l
}

// check compares every chunk, where the ledger says that it is, with what it must be.
func (s *scene) check(t fataler, l *Ledger) {
	t.Helper()
	for i, k := range l.plan.chunks() {
		set := s.old
		if l.side(i) == InNew {
			set = s.to
		}
		got := make([]byte, k.end-k.start)
		if err := readFull(set.Regions()[k.region].File(), got, k.start); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, s.want[k.region][k.start:k.end]) {
			t.Fatalf("chunk %d, on side %c, is not what it was", i, l.side(i))
		}
	}
}

func allocated(t fataler, set *memory.Set) (n uint64) {
	t.Helper()
	for _, r := range set.Regions() {
		a, err := r.AllocatedBytes()
		if err != nil {
			t.Fatal(err)
		}
		n += a
	}
	return n
}

var errCut = errors.New("cut short")

// cutAt makes the n-th hit fail.
func cutAt(n int64) func(context.Context, string) error {
	var hits atomic.Int64
	return func(context.Context, string) error {
		if hits.Add(1) == n {
			return errCut
		}
		return nil
	}
}

// Whatever is cut short and however often, forwards or backwards, every chunk is whole where the ledger says that it is; and in the end all of it is where it
// shall be, nothing is left on the other side, and holes are holes.
func TestAnyCut(t *testing.T) {
	pool(t, 48)
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp("", "qlive-move-")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		kinds := []vmstate.Backing{vmstate.Memfd, vmstate.Hugetlb}
		from, to := rapid.SampledFrom(kinds).Draw(t, "from"), rapid.SampledFrom(kinds).Draw(t, "to")
		page, chunk := uint64(4096), rapid.SampledFrom([]uint64{4096, 64 << 10, 1 * mib}).Draw(t, "chunk")
		if from == vmstate.Hugetlb || to == vmstate.Hugetlb {
			page, chunk = 2*mib, 2*mib
		}
		var sizes []uint64
		for range rapid.IntRange(1, 2).Draw(t, "regions") {
			most := 6
			if page == 4096 {
				most = 100
			}
			sizes = append(sizes, page*rapid.Uint64Range(1, uint64(most)).Draw(t, "pages"))
		}
		s := newScene(t, dir, from, to, sizes, chunk)
		defer s.close(t)
		for i, size := range sizes {
			for n := range rapid.IntRange(0, 3).Draw(t, "extents") {
				at := 4096 * rapid.Uint64Range(0, size/4096-1).Draw(t, "at")
				s.fill(t, i, at, min(size-at, 4096*rapid.Uint64Range(1, 600).Draw(t, "length")), uint64(n))
			}
		}
		before := allocated(t, s.old)
		side := InNew
		for range rapid.IntRange(0, 4).Draw(t, "cuts") {
			l := s.ledger(t)
			m, err := New(Config{Old: s.old, New: s.to, Ledger: l, Workers: rapid.IntRange(1, 3).Draw(t, "workers"),
				Hit: cutAt(rapid.Int64Range(1, int64(3*len(l.sides))).Draw(t, "cut"))})
			if err != nil {
				t.Fatal(err)
			}
			if err := m.Run(t.Context(), side); err != nil && !errors.Is(err, errCut) {
				t.Fatal(err)
			}
			s.check(t, l)
			s.scribble(t, l)
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			side = rapid.SampledFrom([]Side{InOld, InNew}).Draw(t, "side")
		}
		s.finish(t, side, before)
	})
}

// scribble leaves on the wrong side of a chunk what a copy leaves that was cut short in its middle.
func (s *scene) scribble(t *rapid.T, l *Ledger) {
	chunks := l.plan.chunks()
	i := rapid.IntRange(0, len(chunks)-1).Draw(t, "scribbled")
	k := chunks[i]
	wrong := s.to
	if l.side(i) == InNew {
		wrong = s.old
	}
	put(t, wrong, k.region, k.start, bytes.Repeat([]byte{0xdb}, 4096))
}

// finish runs to the end, and looks at both sides.
func (s *scene) finish(t fataler, side Side, before uint64) {
	t.Helper()
	l := s.ledger(t)
	defer l.Close()
	m, err := New(Config{Old: s.old, New: s.to, Ledger: l, Workers: s.workers})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Run(context.Background(), side); err != nil {
		t.Fatal(err)
	}
	s.check(t, l)
	there, gone := s.to, s.old
	if side == InOld {
		there, gone = gone, there
	}
	if l.Moved() != (side == InNew) || l.Away() != (side == InNew) {
		t.Fatalf("moved %t, away %t, and all is on side %c", l.Moved(), l.Away(), side)
	}
	// A scribbled page may have stayed where its chunk was never moved: it is on the wrong side, and freed with it.
	if n := allocated(t, gone); n != 0 {
		t.Fatalf("%d bytes are left on the other side", n)
	}
	if n := allocated(t, there); there.Regions()[0].Backing() == vmstate.Memfd && gone.Regions()[0].Backing() == vmstate.Memfd && n > before {
		t.Fatalf("%d bytes are allocated, there were %d: holes have been filled", n, before)
	}
}

// Never more than the chunks in flight are held twice.
func TestHeldTwice(t *testing.T) {
	for _, to := range []vmstate.Backing{vmstate.Memfd, vmstate.Hugetlb} {
		t.Run(string(to), func(t *testing.T) {
			pool(t, 32)
			s := newScene(t, t.TempDir(), vmstate.Memfd, to, []uint64{64 * mib}, 2*mib)
			defer s.close(t)
			s.fill(t, 0, 0, 64*mib, 1)
			l := s.ledger(t)
			defer l.Close()
			var most atomic.Uint64
			m, err := New(Config{Old: s.old, New: s.to, Ledger: l, Workers: 1, Hit: func(context.Context, string) error {
				n := allocated(t, s.old) + allocated(t, s.to)
				for was := most.Load(); n > was && !most.CompareAndSwap(was, n); was = most.Load() {
				}
				return nil
			}})
			if err != nil {
				t.Fatal(err)
			}
			if err := m.Run(t.Context(), InNew); err != nil {
				t.Fatal(err)
			}
			if extra := most.Load() - 64*mib; extra == 0 || extra > m.InFlightBytes() {
				t.Errorf("%d bytes were held twice, and %d may be", extra, m.InFlightBytes())
			}
			s.check(t, l)
		})
	}
}

// What is freed in huge pages stays the file's: everything can be taken back though somebody else wants the pool.
func TestHugePagesAreKept(t *testing.T) {
	pool(t, 8)
	s := newScene(t, t.TempDir(), vmstate.Hugetlb, vmstate.Memfd, []uint64{16 * mib}, 2*mib)
	defer s.close(t)
	s.fill(t, 0, 0, 16*mib, 1)
	l := s.ledger(t)
	m, err := New(Config{Old: s.old, New: s.to, Ledger: l})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Run(t.Context(), InNew); err != nil || m.LooseBytes() != 0 {
		t.Fatalf("%v, %d bytes are loose", err, m.LooseBytes())
	}
	l.Close()
	if _, err := memory.Create(vmstate.MemorySpec{Backing: vmstate.Hugetlb}, "vm2", []memory.Want{{Name: "ram", SizeBytes: 2 * mib}}); vmstate.KindOf(err) != vmstate.Exhausted {
		t.Errorf("somebody else gets a page: %v", err)
	}
	s.finish(t, InOld, 16*mib)
}

// A ledger of other files is refused before anything is touched.
func TestLedgerOfOthers(t *testing.T) {
	s := newScene(t, t.TempDir(), vmstate.Memfd, vmstate.Memfd, []uint64{mib}, 64<<10)
	defer s.close(t)
	l := s.ledger(t)
	defer l.Close()
	other := create(t, vmstate.Memfd, []uint64{mib})
	defer other.Close()
	if _, err := New(Config{Old: s.old, New: other, Ledger: l}); vmstate.KindOf(err) != vmstate.Host {
		t.Errorf("%v", err)
	}
	larger := create(t, vmstate.Memfd, []uint64{2 * mib})
	defer larger.Close()
	if _, err := New(Config{Old: s.old, New: larger, Ledger: l}); vmstate.KindOf(err) != vmstate.Internal {
		t.Errorf("%v", err)
	}
}

// An estimate says numbers, and leaves nothing behind.
func TestEstimate(t *testing.T) {
	pool(t, 64)
	s := newScene(t, t.TempDir(), vmstate.Memfd, vmstate.Hugetlb, []uint64{128 * mib}, 4*mib)
	defer s.close(t)
	s.fill(t, 0, 16*mib, 96*mib, 1)
	l := s.ledger(t)
	defer l.Close()
	m, err := New(Config{Old: s.old, New: s.to, Ledger: l})
	if err != nil {
		t.Fatal(err)
	}
	e, err := m.Estimate(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Log(e)
	if e.Bytes != 96*mib || e.SampleBytes < sampleBytes || e.SampleBytes > sampleBytes+m.InFlightBytes() || e.Time <= 0 || e.Rate <= 0 {
		t.Errorf("%+v", e)
	}
	if n := allocated(t, s.to); n != 0 {
		t.Errorf("%d bytes are left", n)
	}
	if free, resv := pages2M(t, "free_hugepages"), pages2M(t, "resv_hugepages"); free != resv {
		t.Errorf("%d pages are free and %d reserved: the new files have lost some", free, resv)
	}
	empty := newScene(t, t.TempDir(), vmstate.Memfd, vmstate.Memfd, []uint64{mib}, 64<<10)
	defer empty.close(t)
	none := empty.ledger(t)
	defer none.Close()
	if m, err = New(Config{Old: empty.old, New: empty.to, Ledger: none}); err != nil {
		t.Fatal(err)
	}
	if e, err = m.Estimate(t.Context()); err != nil || e.Time != 0 || e.Bytes != 0 {
		t.Errorf("%+v, %v", e, err)
	}
}
