package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"qlive/integration/env"
	"qlive/integration/guest"
	"qlive/vmstate"
)

// Options say what to measure.
type Options struct {
	Groups   []string  // of rows, see Groups; all if empty
	Count    int       // handoffs a row; 50 if 0, 5 if Quick
	Quick    bool      // fewer sizes and handoffs: to see that it works, not to publish
	Seed     uint64    // of the order of handoffs and of the intervals; drawn, and told, if 0
	Qlive    string    // the qlive binary whose daemon is measured; none if empty: then only floors and peers are
	Progress io.Writer // a line for each step; nil for nowhere

	every time.Duration // between two words about rounds; 10 s if 0
}

const (
	warmBeats  = 25 // a guest that stood beats so often before it is handed over
	afterBeats = 50 // beats after a handoff in which its effects are looked for, 100 ms
	bootLimit  = 2 * time.Minute
	fillSpeed  = 8 << 20 // bytes per second that the slowest guest fills
)

// Run measures. It returns what it has measured also next to an error; whatever it has started is gone either way.
func Run(ctx context.Context, o Options) (r Report, err error) {
	if o.Count == 0 {
		if o.Count = 50; o.Quick {
			o.Count = 5
		}
	}
	if o.Seed == 0 {
		o.Seed = rand.Uint64() >> 1 // fits into every reader of JSON
	}
	if o.Progress == nil {
		o.Progress = io.Discard
	}
	if o.every == 0 {
		o.every = 10 * time.Second
	}
	if os.Geteuid() != 0 {
		return r, vmstate.Errorf(vmstate.Denied, "cannot measure as user %d", os.Geteuid()).With("run it as root, with sudo")
	}
	scenes, err := plan(o.Groups, o.Quick)
	if err != nil {
		return r, err
	}
	b := &bench{Options: o, rng: rand.New(rand.NewPCG(o.Seed, 0))}
	r.Seed, r.Began = o.Seed, time.Now().UTC()
	if err := b.gather(ctx, scenes); err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, endLeftovers(b.dir), unmountLeftovers(b.dir), os.RemoveAll(b.dir)) }()
	if r.Machine, err = Describe(ctx, b.parts.Env); err != nil {
		return r, err
	}
	for i, s := range scenes {
		fmt.Fprintf(o.Progress, "[%d/%d] %s\n", i+1, len(scenes), s)
		rows, err := b.scene(ctx, s)
		r.Rows = append(r.Rows, rows...)
		if err != nil {
			return r, fmt.Errorf("cannot measure %s: %w", s, err)
		}
	}
	r.Growth = growths(rand.New(rand.NewPCG(o.Seed, 1)), r.Rows)
	r.Took, r.Machine.LoadAfter = time.Since(r.Began), LoadAverage()
	return r, nil
}

// bench is one run.
type bench struct {
	Options
	rng   *rand.Rand
	parts parts
	dir   string
}

// gather finds what guests are made of.
func (b *bench) gather(ctx context.Context, scenes []scene) (err error) {
	b.parts.Env, err = env.Locate()
	if _, missing := errors.AsType[*env.MissingError](err); err != nil && !missing {
		return err
	}
	for _, s := range scenes {
		if b.parts.Kernel == "" || b.parts.QEMU(s.from) == "" || b.parts.QEMU(s.to) == "" {
			return err // names all that is missing
		}
	}
	fmt.Fprintln(b.Progress, "building the guest")
	if b.parts.initrd, err = guest.Build(ctx, b.parts.Cache); err != nil {
		return err
	}
	b.dir, err = os.MkdirTemp(workingFolder(), "qlive-bench-")
	return err
}

// workingFolder is where everything lies that a run makes: in memory, where a run directory belongs, unless the caller says otherwise.
func workingFolder() string {
	if os.Getenv("TMPDIR") != "" {
		return os.TempDir()
	}
	for _, dir := range []string{"/run", "/dev/shm"} {
		var fs unix.Statfs_t
		if err := unix.Statfs(dir, &fs); err == nil && fs.Type == unix.TMPFS_MAGIC {
			return dir
		}
	}
	return os.TempDir()
}

// scene boots the guests of a scene, hands them over in turn and describes what was seen.
func (b *bench) scene(ctx context.Context, s scene) (rows []Row, err error) {
	if b.Qlive == "" {
		for i, u := range s.units {
			s.units[i] = slices.DeleteFunc(slices.Clone(u), Contender.isQlive)
		}
	}
	if s.shape.HugePages {
		guests := 1
		if b.Qlive != "" {
			guests = 2
		}
		release, err := ReserveHugePages(guests * s.shape.ramMiB() / 2)
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, release()) }()
	}
	dir, err := os.MkdirTemp(b.dir, "s")
	if err != nil {
		return nil, err
	}
	for _, guest := range []string{bareDir, serviceDir} {
		guest = filepath.Join(dir, guest)
		if err := errors.Join(os.Mkdir(guest, 0o700), s.shape.makeDisk(guest)); err != nil {
			return nil, err
		}
	}
	cast, err := b.boot(ctx, s, dir)
	defer func() { err = errors.Join(err, cast.close()) }()
	if err != nil {
		return nil, err
	}
	taken, err := b.play(ctx, s, cast)
	if err == nil {
		err = cast.check(ctx, s.shape)
	}
	return b.rows(s, taken), err
}

// leg is a handoff of a scene, without regard to when it was done.
type leg struct {
	contender Contender
	from, to  string
}

// play hands over until there are enough handoffs of each leg.
func (b *bench) play(ctx context.Context, s scene, c *cast) (map[leg][]Sample, error) {
	taken := make(map[leg][]Sample)
	lastWord := time.Now()
	for round := range b.Count {
		for _, who := range order(b.rng, s.units) {
			if err := b.journey(ctx, s, c, who, taken); err != nil {
				return taken, fmt.Errorf("round %d, %s: %w", round+1, who, err)
			}
		}
		if time.Since(lastWord) > b.every {
			lastWord = time.Now()
			fmt.Fprintf(b.Progress, "      round %d of %d\n", round+1, b.Count)
		}
	}
	return taken, nil
}

// journey takes one guest where the scene wants it and back to where it was.
func (b *bench) journey(ctx context.Context, s scene, c *cast, who Contender, taken map[leg][]Sample) error {
	at, by := s.from, who
	for _, to := range s.trip() {
		sample, err := b.handOver(ctx, c, by, to)
		if err != nil {
			return err
		}
		if l := (leg{who, at, to}); by == who {
			taken[l] = append(taken[l], sample)
		}
		at, by = to, who.back()
	}
	return nil
}

// handOver does one handoff and looks at what the guest felt.
func (b *bench) handOver(ctx context.Context, c *cast, who Contender, to string) (Sample, error) {
	p := c.who(who)
	if err := c.wake(ctx, p); err != nil {
		return Sample{}, err
	}
	if err := p.serial().AwaitBeats(ctx, warmBeats); err != nil {
		return Sample{}, err
	}
	stop, err := c.readBeside(ctx, who)
	if err != nil {
		return Sample{}, err
	}
	p.serial().Window()
	s, err := p.handOver(ctx, who, to)
	if err = errors.Join(err, stop()); err != nil {
		return s, err
	}
	if err := p.serial().AwaitBeats(ctx, afterBeats); err != nil {
		return s, err
	}
	gaps := p.serial().Window()
	s.HostGapUS, s.GuestGapUS = gaps.Host.Microseconds(), gaps.Guest.Microseconds()
	return s, nil
}
