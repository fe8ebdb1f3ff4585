package rehouse

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"qlive/flip/memory"
	"qlive/flip/memory/move"
)

// Sample is one move.
type Sample struct {
	TookNS    int64  `json:"took_ns"`
	FreeNS    int64  `json:"free_ns,omitempty"` // of a memcpy: how long freeing the old file took afterwards, by as many workers, chunk by chunk
	HeldBytes uint64 `json:"held_bytes"`        // by both files at the peak, beyond what is moved
}

// measure fills a file and moves it, by qlive or by a bare parallel memcpy, and makes sure that all of it has arrived.
func (o Options) measure(ctx context.Context, p Pair, bare bool, seed uint64) (s Sample, err error) {
	from, to, err := o.sets(p)
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, from.Close(), to.Close()) }()
	source, err := mapAll(from)
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, unix.Munmap(source)) }()
	fill(source, seed)
	if bare {
		s.HeldBytes = uint64(o.Bytes)
		if s.TookNS, err = memcpy(from, to); err == nil {
			s.FreeNS, err = free(from)
		}
	} else {
		s, err = byQlive(ctx, from, to, uint64(o.Bytes))
	}
	if err != nil {
		return s, err
	}
	arrived, err := mapAll(to)
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, unix.Munmap(arrived)) }()
	want := make([]byte, 1<<20)
	rng := newContent(seed)
	for at := 0; at < len(arrived); at += len(want) {
		rng.fill(want)
		if !bytes.Equal(arrived[at:at+len(want)], want) {
			return s, fmt.Errorf("the MiB at %d is not what was moved", at)
		}
	}
	return s, nil
}

func mapAll(set *memory.Set) ([]byte, error) {
	r := set.Regions()[0]
	room, err := unix.Mmap(int(r.File().Fd()), 0, int(r.SizeBytes()), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	return room, os.NewSyscallError("mmap", err)
}

// content is bytes that look like chance and cost little.
type content struct{ state uint64 }

func newContent(seed uint64) *content { return &content{seed | 1} }

func (c *content) fill(b []byte) {
	for i := 0; i+8 <= len(b); i += 8 {
		c.state = c.state*6364136223846793005 + 1442695040888963407
		binary.LittleEndian.PutUint64(b[i:], c.state)
	}
}

func fill(b []byte, seed uint64) { newContent(seed).fill(b) }

// workers is how many qlive uses by itself.
func workers() int { return min(runtime.GOMAXPROCS(0), 8) }

// memcpy copies from mapping to mapping, an equal part by each worker, and frees nothing.
func memcpy(from, to *memory.Set) (int64, error) {
	began := time.Now()
	src, err := mapAll(from)
	if err != nil {
		return 0, err
	}
	dst, err := mapAll(to)
	if err != nil {
		return 0, errors.Join(err, unix.Munmap(src))
	}
	n := workers()
	part := (len(src)/n + 1<<21 - 1) &^ (1<<21 - 1)
	var all sync.WaitGroup
	for at := 0; at < len(src); at += part {
		end := min(at+part, len(src))
		all.Go(func() { copy(dst[at:end], src[at:end]) })
	}
	all.Wait()
	took := time.Since(began)
	return took.Nanoseconds(), errors.Join(unix.Munmap(src), unix.Munmap(dst))
}

// free gives the pages of a file back, as a move does.
func free(set *memory.Set) (int64, error) {
	r := set.Regions()[0]
	n, chunk := workers(), int64(move.ChunkBytes(set, set))
	errs := make([]error, n)
	began := time.Now()
	var all sync.WaitGroup
	for w := range n {
		all.Go(func() {
			for at := int64(w) * chunk; at < int64(r.SizeBytes()) && errs[w] == nil; at += int64(n) * chunk {
				errs[w] = unix.Fallocate(int(r.File().Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, at, min(chunk, int64(r.SizeBytes())-at))
			}
		})
	}
	all.Wait()
	return time.Since(began).Nanoseconds(), errors.Join(errs...)
}

// byQlive moves as a handoff does, and looks after each chunk how much both files hold.
func byQlive(ctx context.Context, from, to *memory.Set, size uint64) (s Sample, err error) {
	dir, err := os.MkdirTemp("/dev/shm", "qlive-bench-")
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	p, err := move.PlanOf("bench", from, to)
	if err != nil {
		return s, err
	}
	ledger, err := move.CreateLedger(filepath.Join(dir, "moves"), p)
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, ledger.Close()) }()
	var mu sync.Mutex
	m, err := move.New(move.Config{Old: from, New: to, Ledger: ledger, Hit: func(context.Context, string) error {
		there, err := to.Regions()[0].AllocatedBytes() // first: what is freed meanwhile is not counted twice
		here, err2 := from.Regions()[0].AllocatedBytes()
		mu.Lock()
		defer mu.Unlock()
		if sum := there + here; sum > size {
			s.HeldBytes = max(s.HeldBytes, sum-size)
		}
		return errors.Join(err, err2)
	}})
	if err != nil {
		return s, err
	}
	began := time.Now()
	err = m.Run(ctx, move.InNew)
	s.TookNS = time.Since(began).Nanoseconds()
	return s, err
}
