package move

import (
	"cmp"
	"context"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"

	"qlive/flip/memory"
	"qlive/vmstate"
)

// Config is what a mover works with.
type Config struct {
	Old, New *memory.Set
	Ledger   *Ledger // of these two sets
	Workers  int     // how many chunks are in flight; 0 for one a processor, at most 8
	Nodes    []int   // host NUMA nodes that new pages come from; none for any
	// Progress is called after each chunk with what has become of its region: how much of it is on the side that it is moved to, and how much is
	// freed behind. Several goroutines may call it at once; nil for nobody.
	Progress func(region string, there, freed uint64)
	// Hit is asked at `flip.move-chunk.copied`, `.noted` and `.freed` of each chunk, for tests; nil for nobody.
	Hit func(ctx context.Context, name string) error
}

// Mover moves the RAM of a guest that stands.
type Mover struct {
	cfg    Config
	chunks []chunk
	loose  atomic.Uint64 // huge pages freed and not kept, bytes
}

// ChunkBytes is how large the chunks between two sets are: as small as is quick, and whole pages on both sides.
func ChunkBytes(old, to *memory.Set) uint64 {
	const small = 4 << 20
	size := uint64(small)
	for _, s := range []*memory.Set{old, to} {
		for _, r := range s.Regions() {
			size = max(size, r.PageBytes())
		}
	}
	return size
}

// PlanOf is the plan of a move from one set into another, which has the same regions.
func PlanOf(migration string, old, to *memory.Set) (Plan, error) {
	p := Plan{Version: version, Migration: migration, ChunkBytes: ChunkBytes(old, to)}
	news := to.Regions()
	for i, r := range old.Regions() {
		if i >= len(news) || news[i].Name() != r.Name() || news[i].SizeBytes() != r.SizeBytes() {
			return p, vmstate.Errorf(vmstate.Internal, "cannot move RAM block %q: there is none of its name and size to move it to", r.Name())
		}
		p.Regions = append(p.Regions, Region{
			Name: r.Name(), SizeBytes: r.SizeBytes(), Old: File{r.Dev(), r.Inode()}, New: File{news[i].Dev(), news[i].Inode()},
		})
	}
	return p, nil
}

// New makes a mover; nothing is moved. The ledger must be that of the two sets.
func New(cfg Config) (*Mover, error) {
	want, err := PlanOf(cfg.Ledger.plan.Migration, cfg.Old, cfg.New)
	if err != nil {
		return nil, err
	}
	have := cfg.Ledger.plan
	for i, r := range want.Regions {
		if i >= len(have.Regions) || have.Regions[i] != r {
			return nil, vmstate.Errorf(vmstate.Host, "cannot move RAM block %q: the ledger is of other files", r.Name).
				With("find out whose ledger this is; nothing was touched")
		}
	}
	cfg.Workers = workers(cfg.Workers)
	return &Mover{cfg: cfg, chunks: have.chunks()}, nil
}

// mostWorkers is how many copy at the same time by themselves: memory gets no quicker from more.
const mostWorkers = 8

func workers(asked int) int { return cmp.Or(asked, min(runtime.GOMAXPROCS(0), mostWorkers)) }

// InFlightBytes is how much is held twice at most.
func (m *Mover) InFlightBytes() uint64 { return uint64(m.cfg.Workers) * m.cfg.Ledger.plan.ChunkBytes }

// LooseBytes is how much of what was freed so far others may have taken: huge pages whose reservation could not be kept.
func (m *Mover) LooseBytes() uint64 { return m.loose.Load() }

// Run moves every chunk that is not there yet to one side, and returns when all are there and nothing is left on the other. An error, which may be
// the cause of ctx, leaves each chunk whole on the side that the ledger says; Run may then be called again, for either side.
func (m *Mover) Run(ctx context.Context, to Side) error {
	j := &job{Mover: m, to: to, tally: make([]tally, len(m.cfg.Ledger.plan.Regions))}
	defer j.close()
	if err := j.open(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next atomic.Int64
	var all sync.WaitGroup
	for range m.cfg.Workers {
		all.Go(func() {
			c := newCopier()
			for i := int(next.Add(1)) - 1; i < len(m.chunks) && ctx.Err() == nil; i = int(next.Add(1)) - 1 {
				if err := j.move(ctx, c, i); err != nil {
					cancel(err)
				}
			}
		})
	}
	all.Wait()
	if ctx.Err() != nil {
		return explain(context.Cause(ctx))
	}
	return nil
}

// explain makes a problem of an error that is none.
func explain(err error) error {
	if _, ok := errors.AsType[*vmstate.Error](err); ok || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return vmstate.Errorf(vmstate.Exhausted, "cannot move the guest's RAM: %w", err).With("make room in what it is moved to: memory, huge pages, or the cgroup's limit")
}

// job is one Run.
type job struct {
	*Mover
	to       Side
	from, at []*end // by region: where chunks come from, and where they go
	clean    []bool // by region: nothing was there as the run began
	tally    []tally
}

// tally is what has become of a region.
type tally struct{ there, freed atomic.Uint64 }

func (j *job) open() error {
	from, at := j.cfg.Old, j.cfg.New
	if j.to == InOld {
		from, at = at, from
	}
	for i, r := range from.Regions() {
		src, err := newEnd(r, nil)
		if err != nil {
			return err
		}
		j.from = append(j.from, src)
		nodes := j.cfg.Nodes
		if j.to == InOld {
			nodes = nil
		}
		dst, err := newEnd(at.Regions()[i], nodes)
		if err != nil {
			return err
		}
		j.at = append(j.at, dst)
		clean, err := dst.empty()
		if err != nil {
			return err
		}
		j.clean = append(j.clean, clean)
	}
	return nil
}

func (j *job) close() {
	for _, list := range [][]*end{j.from, j.at} {
		for _, e := range list {
			_ = e.close() // a mapping that was made can be unmade
		}
	}
}

// move moves one chunk: copied, noted, freed behind. One that is there already may have been cut short before it was freed.
func (j *job) move(ctx context.Context, c *copier, i int) error {
	k := j.chunks[i]
	src, dst := j.from[k.region], j.at[k.region]
	if j.cfg.Ledger.side(i) != j.to {
		if !j.clean[k.region] { // what an earlier attempt has left
			if _, err := dst.free(k.start, k.end); err != nil {
				return err
			}
		}
		if _, err := c.copy(ctx, dst, src, k.start, k.end); err != nil {
			return err
		}
		if err := j.hit(ctx, "copied"); err != nil {
			return err
		}
		if err := j.cfg.Ledger.put(i, j.to); err != nil {
			return err
		}
		if err := j.hit(ctx, "noted"); err != nil {
			return err
		}
	}
	kept, err := src.free(k.start, k.end)
	if err != nil {
		return err
	}
	if !kept {
		j.loose.Add(k.end - k.start)
	}
	t := &j.tally[k.region]
	there, freed := t.there.Add(k.end-k.start), t.freed.Add(k.end-k.start)
	if j.cfg.Progress != nil {
		j.cfg.Progress(src.Name(), there, freed)
	}
	return j.hit(ctx, "freed")
}

func (j *job) hit(ctx context.Context, where string) error {
	if j.cfg.Hit == nil {
		return nil
	}
	return j.cfg.Hit(ctx, "flip.move-chunk."+where)
}
