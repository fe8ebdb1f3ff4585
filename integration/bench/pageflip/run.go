package pageflip

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"time"

	"qlive/integration/bench"
	"qlive/integration/env"
	"qlive/internal/proc"
	"qlive/vmstate"
)

// Options say what to measure.
type Options struct {
	Routes   []Route   // all if empty
	Count    int       // moves by each route; 15 if 0
	Bytes    int       // of each move; 512 MiB if 0
	Seed     uint64    // of the order, the content and the intervals; drawn, and told, if 0
	Peer     []string  // the command whose process calls [Peer]
	PeerEnv  []string  // more of its environment
	Progress io.Writer // a line for each round; nil for nowhere
}

// Defaults of a run.
const (
	DefaultCount = 15
	DefaultBytes = 512 << 20
)

// Run measures. All processes that it has started have ended when it returns.
func Run(ctx context.Context, o Options) (r Report, err error) {
	if err := o.complete(); err != nil {
		return r, err
	}
	r = Report{Seed: o.Seed, Began: time.Now().UTC(), Bytes: o.Bytes, ChunkBytes: chunkBytes}
	if r.Machine, err = bench.Describe(ctx, env.Env{}); err != nil {
		return r, err
	}
	r.Machine.Accelerator = "" // no guest is run
	rng := rand.New(rand.NewPCG(o.Seed, 0))
	taken := make(map[Route][]Sample)
	for round := 0; round <= o.Count; round++ {
		fmt.Fprintf(o.Progress, "round %d of %d\n", round, o.Count)
		order := slices.Clone(o.Routes)
		rng.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
		for _, route := range order {
			s, err := o.move(ctx, route, rng.Uint64())
			if err != nil {
				if ctx.Err() != nil {
					err = context.Cause(ctx)
				}
				return r, fmt.Errorf("cannot measure %s: %w", route, err)
			}
			if round > 0 { // the first warms up what the host has not touched for long
				taken[route] = append(taken[route], s)
			}
		}
	}
	for _, route := range o.Routes {
		r.Rows = append(r.Rows, newRow(route, o.Bytes, taken[route], taken[Pwrite], rand.New(rand.NewPCG(o.Seed, 1))))
	}
	r.Took, r.Machine.LoadAfter = time.Since(r.Began), bench.LoadAverage()
	return r, nil
}

// complete fills in what is not said, and refuses what cannot be done.
func (o *Options) complete() error {
	if len(o.Routes) == 0 {
		o.Routes = Routes()
	}
	for _, r := range o.Routes {
		if _, ok := workOf(r); !ok {
			return vmstate.Errorf(vmstate.Invalid, "cannot go by %q: there is no such route", r).With("choose from " + joined(Routes()))
		}
	}
	if o.Count == 0 {
		o.Count = DefaultCount
	}
	if o.Bytes == 0 {
		o.Bytes = DefaultBytes
	}
	if o.Seed == 0 {
		o.Seed = rand.Uint64() >> 1 // fits into every reader of JSON
	}
	if o.Progress == nil {
		o.Progress = io.Discard
	}
	if o.Count < 0 || o.Bytes < 0 || o.Bytes%os.Getpagesize() != 0 {
		return vmstate.Errorf(vmstate.Invalid, "cannot move %d bytes %d times", o.Bytes, o.Count).With("choose a size in whole MiB and a count above 0")
	}
	if os.Geteuid() != 0 {
		return vmstate.Errorf(vmstate.Denied, "cannot see page frames as user %d", os.Geteuid()).With("run it as root, with sudo")
	}
	memory, err := proc.ReadMeminfo()
	if err != nil {
		return err
	}
	const copies, spare = 2, 256 << 20 // the routes that free nothing hold it twice
	if need := copies*uint64(o.Bytes) + spare; memory.Available < need {
		return vmstate.Errorf(vmstate.Exhausted, "cannot move %d MiB: that takes %d MiB, and %d are available", o.Bytes>>20, need>>20, memory.Available>>20).
			With("choose a smaller --size")
	}
	return nil
}

func joined(routes []Route) string {
	var names []string
	for _, r := range routes {
		names = append(names, string(r))
	}
	return strings.Join(names, ", ")
}
