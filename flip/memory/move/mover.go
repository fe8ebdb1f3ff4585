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
	cfg     Config
	chunks  []chunk
	follows []bool        // by region: what is freed on one side is promised on the other
	loose   atomic.Uint64 // huge pages freed and not kept, bytes
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
	m := &Mover{cfg: cfg, chunks: have.chunks()}
	for i, r := range cfg.Old.Regions() {
		m.follows = append(m.follows, memory.Follows(r, cfg.New.Regions()[i], cfg.Nodes))
	}
	return m, nil
}

// mostWorkers is how many copy at the same time by themselves: memory gets no quicker from more.
const mostWorkers = 8

func workers(asked int) int { return cmp.Or(asked, min(runtime.GOMAXPROCS(0), mostWorkers)) }

// InFlightBytes is how much is held twice at most.
func (m *Mover) InFlightBytes() uint64 {
	var all uint64
	for _, r := range m.cfg.Ledger.plan.Regions {
		all += r.SizeBytes
	}
	return min(all, uint64(m.cfg.Workers)*m.cfg.Ledger.plan.ChunkBytes)
}

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
	firsts, err := j.begin(ctx)
	if err != nil {
		return explain(err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var all sync.WaitGroup
	for _, i := range firsts {
		all.Go(func() {
			if err := j.work(ctx, i); err != nil {
				cancel(err)
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
	next     atomic.Int64 // how many chunks have been taken
	pool     sync.Mutex   // held from where huge pages are freed until as many are promised
	from, at []*end       // by region: where chunks come from, and where they go
	clean    []bool       // by region: nothing was there as the run began
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

// begin gives each worker the chunk that it begins with. If somebody else has taken huge pages fewer can begin.
func (j *job) begin(ctx context.Context) (firsts []int, err error) {
	if err := j.recall(); err != nil {
		return nil, err
	}
	for range j.cfg.Workers {
		i, err := j.take(ctx)
		if err != nil {
			return nil, err
		}
		if i < 0 {
			break
		}
		if err := j.promise(i); memory.IsShort(err) && len(firsts) > 0 {
			j.next.Add(-1)
			break
		} else if err != nil {
			return nil, err
		}
		firsts = append(firsts, i)
	}
	return firsts, nil
}

// work moves chunks until none is left. What the first needs is promised.
func (j *job) work(ctx context.Context, i int) error {
	c := newCopier()
	for i >= 0 {
		if err := j.move(ctx, c, i); err != nil {
			return err
		}
		next, err := j.take(ctx)
		if err != nil {
			return err
		}
		if err := j.release(i, next); err != nil {
			return err
		}
		if err := j.freed(ctx, i); err != nil {
			return err
		}
		i = next
	}
	return nil
}

// take is the next chunk that is not there yet, or -1 if there is none. One that is there may have been cut short before it was freed behind. The way back
// begins with the last ones: what they had is still promised to them.
func (j *job) take(ctx context.Context) (int, error) {
	for {
		i := int(j.next.Add(1)) - 1
		if i >= len(j.chunks) {
			return -1, nil
		}
		if j.to == InOld {
			i = len(j.chunks) - 1 - i
		}
		if j.cfg.Ledger.side(i) != j.to {
			return i, nil
		}
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		if err := j.free(i); err != nil {
			return 0, err
		}
		if err := j.freed(ctx, i); err != nil {
			return 0, err
		}
	}
}

// move copies a chunk and notes that it is there.
func (j *job) move(ctx context.Context, c *copier, i int) error {
	k := j.chunks[i]
	dst := j.at[k.region]
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if !j.clean[k.region] { // what an earlier attempt has left
		if err := j.again(dst, k); err != nil {
			return err
		}
	}
	if _, err := c.copy(ctx, dst, j.from[k.region], k.start, k.end); err != nil {
		return err
	}
	if err := j.hit(ctx, "copied"); err != nil {
		return err
	}
	if err := j.cfg.Ledger.put(i, j.to); err != nil {
		return err
	}
	return j.hit(ctx, "noted")
}

// again empties a chunk where it is to go.
func (j *job) again(dst *end, k chunk) error {
	if dst.huge {
		j.pool.Lock()
		defer j.pool.Unlock()
	}
	return dst.again(k.start, k.end)
}

// freed shows that a chunk is there and freed behind.
func (j *job) freed(ctx context.Context, i int) error {
	k := j.chunks[i]
	t := &j.tally[k.region]
	there, freed := t.there.Add(k.end-k.start), t.freed.Add(k.end-k.start)
	if j.cfg.Progress != nil {
		j.cfg.Progress(j.from[k.region].Name(), there, freed)
	}
	return j.hit(ctx, "freed")
}

func (j *job) hit(ctx context.Context, where string) error {
	if j.cfg.Hit == nil {
		return nil
	}
	return j.cfg.Hit(ctx, "flip.move-chunk."+where)
}
