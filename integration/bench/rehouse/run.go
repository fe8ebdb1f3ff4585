package rehouse

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"time"

	"qlive/flip/memory"
	"qlive/integration/bench"
	"qlive/integration/env"
	"qlive/vmstate"
)

// Options say what to measure.
type Options struct {
	Count    int       // moves between each two backings by each contender; 9 if 0
	Bytes    int       // of each move; 256 MiB if 0
	Seed     uint64    // of the order, the content and the intervals; drawn, and told, if 0
	Progress io.Writer // a line for each round; nil for nowhere
}

// Defaults of a run.
const (
	DefaultCount = 9
	DefaultBytes = 256 << 20
)

// Pair is two backings.
type Pair struct {
	From vmstate.Backing `json:"from"`
	To   vmstate.Backing `json:"to"`
}

func (p Pair) String() string { return string(p.From) + " → " + string(p.To) }

// Pairs are what is measured. A file on hugetlbfs is moved like a memfd of huge pages: the kernel has one kind of them.
func Pairs() []Pair {
	return []Pair{{vmstate.Memfd, vmstate.Hugetlb}, {vmstate.Hugetlb, vmstate.Hugetlb}, {vmstate.Hugetlb, vmstate.Memfd}, {vmstate.Memfd, vmstate.Memfd}}
}

// Run measures, and leaves nothing behind.
func Run(ctx context.Context, o Options) (r Report, err error) {
	if err := o.complete(); err != nil {
		return r, err
	}
	r = Report{Seed: o.Seed, Began: time.Now().UTC(), Bytes: o.Bytes}
	if r.Machine, err = bench.Describe(ctx, env.Env{}); err != nil {
		return r, err
	}
	r.Machine.Accelerator = "" // no guest is run
	release, err := bench.ReserveHugePages(2 * o.Bytes >> 21)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, release()) }()
	rng := rand.New(rand.NewPCG(o.Seed, 0))
	taken := make(map[Pair]map[bool][]Sample)
	for round := 0; round <= o.Count; round++ {
		fmt.Fprintf(o.Progress, "round %d of %d\n", round, o.Count)
		for _, p := range Pairs() {
			for _, bare := range [][]bool{{false, true}, {true, false}}[rng.IntN(2)] { // who is first is drawn
				s, err := o.measure(ctx, p, bare, rng.Uint64())
				if err != nil {
					return r, fmt.Errorf("cannot measure %s: %w", p, err)
				}
				if taken[p] == nil {
					taken[p] = make(map[bool][]Sample)
				}
				if round > 0 { // the first warms up what the host has not touched for long
					taken[p][bare] = append(taken[p][bare], s)
				}
			}
		}
	}
	for _, p := range Pairs() {
		r.Rows = append(r.Rows, newRow(p, taken[p][false], taken[p][true], rng))
	}
	r.Took, r.Machine.LoadAfter = time.Since(r.Began), bench.LoadAverage()
	return r, nil
}

func (o *Options) complete() error {
	if o.Count == 0 {
		o.Count = DefaultCount
	}
	if o.Bytes == 0 {
		o.Bytes = DefaultBytes
	}
	if o.Count < 0 || o.Bytes < 16<<20 || o.Bytes%(16<<20) != 0 {
		return vmstate.Errorf(vmstate.Invalid, "cannot measure %d moves of %d bytes", o.Count, o.Bytes).With("give a multiple of 16 MiB")
	}
	if o.Seed == 0 {
		o.Seed = rand.Uint64() >> 1 // fits into every reader of JSON
	}
	if o.Progress == nil {
		o.Progress = io.Discard
	}
	if os.Geteuid() != 0 {
		return vmstate.Errorf(vmstate.Denied, "cannot measure as user %d", os.Geteuid()).With("run it as root, with sudo")
	}
	return nil
}

// sets makes the two sets of a move.
func (o Options) sets(p Pair) (from, to *memory.Set, err error) {
	want := []memory.Want{{Name: "ram", SizeBytes: uint64(o.Bytes)}}
	if from, err = memory.Create(vmstate.MemorySpec{Backing: p.From}, "bench", want); err != nil {
		return nil, nil, err
	}
	if to, err = memory.Create(vmstate.MemorySpec{Backing: p.To}, "bench", want); err != nil {
		return nil, nil, errors.Join(err, from.Close())
	}
	return from, to, nil
}
