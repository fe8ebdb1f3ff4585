package move

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"qlive/flip/memory"
	"qlive/vmstate"
)

// Estimate is how long a move will take, from a sample of this guest's own memory between these very backings, on this host, now.
type Estimate struct {
	Bytes       uint64        // to be moved: what is allocated
	SampleBytes uint64        // what was copied and freed again to know
	Rate        float64       // bytes/s, all workers together, with what is freed behind
	Time        time.Duration // of all of it
}

// String says it for people.
func (e Estimate) String() string {
	return fmt.Sprintf("%d MiB at %.0f MiB/s take about %s", e.Bytes>>20, e.Rate/(1<<20), e.Time.Round(time.Millisecond))
}

const (
	// sampleBytes is how much is copied to know how long it takes: enough for all workers to be busy for some 20 ms.
	sampleBytes = 48 << 20
	// freedBytes is how much is freed to know how long that takes.
	freedBytes = 8 << 20
)

// Estimate copies some of the old side into the new one, which must be empty, and frees it there again. The guest may run meanwhile: what is copied is of no
// use. It takes some 50 ms. What [Mover.Promise] has promised is promised afterwards, too.
func (m *Mover) Estimate(ctx context.Context) (Estimate, error) {
	var e Estimate
	for _, r := range m.cfg.Old.Regions() {
		n, err := r.AllocatedBytes()
		if err != nil {
			return e, err
		}
		e.Bytes += min(n, r.SizeBytes())
	}
	j := &job{Mover: m, to: InNew}
	defer j.close()
	if err := j.open(); err != nil {
		return e, err
	}
	took, err := j.sample(ctx, &e)
	if err != nil || e.SampleBytes == 0 {
		return e, err
	}
	perByte := took.Seconds() / float64(e.SampleBytes)
	if m.cfg.Old.Regions()[0].Backing() == vmstate.Memfd {
		freeing, err := timeToFree()
		if err != nil {
			return e, err
		}
		perByte += freeing.Seconds() / freedBytes / float64(m.cfg.Workers)
	}
	e.Rate = 1 / perByte
	e.Time = time.Duration(float64(e.Bytes) * perByte * float64(time.Second))
	return e, nil
}

// sample copies by all workers until there is enough, and frees each chunk at once, so that no more is held twice than in a move. What it gives is how
// long the copying took, side by side.
func (j *job) sample(ctx context.Context, e *Estimate) (time.Duration, error) {
	var data, copying atomic.Uint64
	var all sync.WaitGroup
	errs := make([]error, j.cfg.Workers)
	for w := range j.cfg.Workers {
		first := j.another(&data) // one of the first, which are promised, whoever begins first
		all.Go(func() {
			c := newCopier()
			for i := first; i >= 0 && errs[w] == nil; {
				k := j.chunks[i]
				dst := j.at[k.region]
				began := time.Now()
				n, err := c.copy(ctx, dst, j.from[k.region], k.start, k.end)
				copying.Add(uint64(time.Since(began)))
				data.Add(n)
				next := j.another(&data)
				errs[w] = errors.Join(err, j.discard(i, next))
				i = next
			}
		})
	}
	all.Wait()
	e.SampleBytes = data.Load()
	if err := errors.Join(errs...); err != nil {
		return 0, explain(err)
	}
	if err := j.Promise(); err != nil {
		return 0, explain(err)
	}
	return time.Duration(copying.Load()) / time.Duration(j.cfg.Workers), nil
}

// another is the next chunk of a sample, or -1 if it is large enough.
func (j *job) another(data *atomic.Uint64) int {
	if i := int(j.next.Add(1)) - 1; i < len(j.chunks) && data.Load() < sampleBytes {
		return i
	}
	return -1
}

// discard frees a chunk that was copied for a sample; the new side has as much promised as before.
func (j *job) discard(i, next int) error {
	k := j.chunks[i]
	dst := j.at[k.region]
	if !j.follows[k.region] {
		err := dst.again(k.start, k.end)
		if memory.IsShort(err) {
			err = vmstate.Errorf(vmstate.Exhausted, "cannot keep the huge pages of RAM block %q: somebody has taken them", dst.Name()).With("try again, or make the pool larger")
		}
		return err
	}
	j.pool.Lock()
	defer j.pool.Unlock()
	err := errors.Join(dst.fill(k.start, k.end), dst.free(k.start, k.end))
	if err == nil && next >= 0 {
		err = j.promise(next)
	}
	return err
}

// timeToFree is how long it takes to free ordinary pages that another process maps.
func timeToFree() (time.Duration, error) {
	fd, err := unix.MemfdCreate("qlive-sample", unix.MFD_CLOEXEC)
	if err != nil {
		return 0, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), "sample")
	defer f.Close()
	if err := f.Truncate(freedBytes); err != nil {
		return 0, err
	}
	room, err := unix.Mmap(fd, 0, freedBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return 0, os.NewSyscallError("mmap", err)
	}
	began := time.Now()
	err = unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, freedBytes)
	took := time.Since(began)
	return took, errors.Join(os.NewSyscallError("fallocate", err), unix.Munmap(room))
}
