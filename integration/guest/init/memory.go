package main

import (
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"

	"qlive/integration/guest/pattern"
	"qlive/integration/guest/wire"
)

type page = [pattern.PageWords]uint64

// slice is how many pages are worked on before looking up: about a millisecond's work when emulated.
const slice = 64

// maxBad is how many bad pages of one verification are described.
const maxBad = 4

// memory is the memory under test. Its last pages are rewritten by one goroutine (dirty) and all of
// it is read by another (verify).
type memory struct {
	seed   uint64
	pages  []page
	static int // pages[:static] are never rewritten

	mu   sync.Mutex // a page of pages[static:] and its generation
	gens []uint32   // of pages[static:]
	next int        // the page that dirty rewrites next

	written atomic.Uint64 // pages written since boot
}

// newMemory maps fill MiB, of which the last dirty MiB will be rewritten. Nothing is touched yet.
func newMemory(seed, fill, dirty uint64) (*memory, error) {
	raw, err := syscall.Mmap(-1, 0, int(fill<<20), syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		return nil, fmt.Errorf("cannot map %d MiB: %w", fill, err)
	}
	// Huge pages make the first touch cheaper; without them it works as well.
	_ = syscall.Madvise(raw, madvHugepage)
	m := &memory{seed: seed, pages: unsafe.Slice((*page)(unsafe.Pointer(&raw[0])), len(raw)/pattern.PageBytes)}
	m.static = len(m.pages) - int(dirty<<20)/pattern.PageBytes
	m.gens = make([]uint32, len(m.pages)-m.static)
	return m, nil
}

// fill writes every page for the first time and returns the sum of those that are never rewritten.
func (m *memory) fill() (sum uint64) {
	for i := range m.pages {
		s := pattern.Write(&m.pages[i], m.seed, uint32(i), 0)
		if i < m.static {
			sum = pattern.Fold(sum, s)
		}
	}
	m.written.Add(uint64(len(m.pages)))
	return sum
}

// dirty rewrites the next n pages, each in its next generation.
func (m *memory) dirty(n int) {
	for range min(n, len(m.gens)) {
		m.mu.Lock()
		i := m.static + m.next
		gen := m.gens[m.next] + 1
		pattern.Write(&m.pages[i], m.seed, uint32(i), gen)
		m.gens[m.next] = gen
		m.mu.Unlock()
		m.written.Add(1)
		m.next = (m.next + 1) % len(m.gens)
	}
}

// verify reads every page and returns what it found: Pages, OK, Bad and Sum are filled in, and the
// first few bad pages described. It gives up, with false, when stop says so, asked every few pages.
func (m *memory) verify(stop func() bool) (res wire.Mem, bad []wire.Bad, done bool) {
	for i := range m.pages {
		if i%slice == 0 && stop() {
			return res, bad, false
		}
		ok, sum, why := m.check(i)
		if i < m.static {
			res.Sum = pattern.Fold(res.Sum, sum)
		}
		if !ok {
			res.Bad++
			if len(bad) < maxBad {
				bad = append(bad, why)
			}
		}
	}
	res.Pages = uint64(len(m.pages))
	res.OK = res.Bad == 0
	return res, bad, true
}

// check reads one page.
func (m *memory) check(i int) (ok bool, sum uint64, why wire.Bad) {
	gen := uint32(0)
	if i >= m.static {
		m.mu.Lock()
		defer m.mu.Unlock()
		gen = m.gens[i-m.static]
	}
	p := &m.pages[i]
	if ok, sum = pattern.Check(p, m.seed, uint32(i), gen); ok {
		return true, sum, wire.Bad{}
	}
	what, word, want := pattern.Diagnose(p, m.seed, uint32(i), gen, uint32(len(m.pages)))
	return false, sum, wire.Bad{Page: uint64(i), Word: uint64(word), Want: want, Got: p[word], What: what}
}
