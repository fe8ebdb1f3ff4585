package pageflip

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"qlive/internal/proc"
	"qlive/vmstate"
)

// asPeer in the environment makes the test binary one of the two processes.
const asPeer = "QLIVE_PAGEFLIP_PEER"

func TestMain(m *testing.M) {
	if os.Getenv(asPeer) != "" {
		if err := Peer(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// tiny is a run of the test binary; its size is no multiple of the chunk.
func tiny(routes ...Route) Options {
	return Options{Routes: routes, Count: 2, Bytes: 2*chunkBytes + 5*os.Getpagesize(), Seed: 7, Peer: []string{os.Args[0]}, PeerEnv: []string{asPeer + "=1"}}
}

func root(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("page frames are shown to root alone: run the tests as root")
	}
}

// Each route delivers every byte (else the run fails), frees what it should, moves pages only where the file itself is passed, and
// leaves no process and no descriptor behind.
func TestRun(t *testing.T) {
	root(t)
	for _, w := range works() {
		t.Run(string(w.route), func(t *testing.T) {
			o := tiny(w.route)
			before := descriptors(t)
			r, err := Run(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			if len(r.Rows) != 1 || len(r.Rows[0].Samples) != o.Count {
				t.Fatalf("rows: %+v", r.Rows)
			}
			passed := w.route == PassFile || w.route == PassFileFill
			pages := o.Bytes / os.Getpagesize()
			for _, s := range r.Rows[0].Samples {
				if s.TookNS <= 0 || s.CPUNS <= 0 || s.Pages != pages {
					t.Errorf("measured %+v", s)
				}
				if left := s.LeftBytes != 0; left != w.kept {
					t.Errorf("the donor has %d bytes left", s.LeftBytes)
				}
				if passed && s.MovedPages != pages {
					t.Errorf("%d of %d pages are where they were", s.MovedPages, pages)
				}
				if !passed && s.MovedPages > pages/10 { // a frame that was freed may by chance be taken again
					t.Errorf("%d of %d pages were moved: the documentation says that none is", s.MovedPages, pages)
				}
			}
			nothingLeft(t, before)
		})
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

func nothingLeft(t *testing.T, before int) {
	t.Helper()
	if now := descriptors(t); now != before {
		t.Errorf("%d descriptors, before %d", now, before)
	}
	if children, err := proc.Children(os.Getpid()); err != nil || len(children) > 0 {
		t.Errorf("processes are left: %+v, %v", children, err)
	}
}

// A run that is interrupted ends and leaves nothing.
func TestRunInterrupted(t *testing.T) {
	root(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	before := descriptors(t)
	o := tiny()
	o.Count, o.Bytes, o.Progress = 1000, 8<<20, writer(func(text string) {
		if strings.Contains(text, "round 1 ") {
			cancel()
		}
	})
	if _, err := Run(ctx, o); err == nil || !strings.Contains(err.Error(), context.Canceled.Error()) {
		t.Errorf("got %v", err)
	}
	nothingLeft(t, before)
}

type writer func(string)

func (w writer) Write(p []byte) (int, error) { w(string(p)); return len(p), nil }

// A peer that fails is an error with its words, not a figure.
func TestRunFailing(t *testing.T) {
	root(t)
	before := descriptors(t)
	o := tiny(Gift)
	o.Peer, o.PeerEnv = []string{"sh", "-c", "echo no memory today >&2; exit 3"}, nil
	if _, err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), "no memory today") {
		t.Errorf("got %v", err)
	}
	nothingLeft(t, before)
}

func TestOptionsRefused(t *testing.T) {
	root(t)
	for name, o := range map[string]Options{
		"no such route": {Routes: []Route{"by pigeon"}},
		"half a page":   {Bytes: 100},
		"negative":      {Count: -1},
		"too much":      {Bytes: 1 << 50},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Run(t.Context(), o)
			if p := vmstate.ProblemOf(err); err == nil || p.Remedy == "" {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestVerify(t *testing.T) {
	ram := make([]byte, 1<<16)
	fill(ram, 3)
	if err := verify(ram, 3); err != nil {
		t.Error(err)
	}
	if err := verify(ram, 4); err == nil {
		t.Error("another content is taken for this one")
	}
	ram[40001]++
	if err := verify(ram, 3); err == nil || !strings.Contains(err.Error(), "byte 40000 ") {
		t.Errorf("got %v", err)
	}
}

func TestWrite(t *testing.T) {
	r := Report{Bytes: gib, ChunkBytes: chunkBytes}
	samples := []Sample{{TookNS: 5e8, CPUNS: 4e8, HeldBytes: 1 << 20, Pages: 9}, {TookNS: 25e7, CPUNS: 3e8, HeldBytes: 3 << 20, Pages: 9, MovedPages: 2}}
	r.Rows = append(r.Rows, newRow(Gift, r.Bytes, samples, samples, rand.New(rand.NewPCG(1, 1))))
	for format, want := range map[string]string{
		"table":    "3.00   2.00 … 4.00  350         300 … 400  2.0       1.0 … 3.0  1 of 9       1.00       1.00 … 1.00",
		"markdown": "| 3.00 | 2.00 … 4.00 | 350 | 300 … 400 | 2.0 | 1.0 … 3.0 | 1 of 9 | 1.00 | 1.00 … 1.00 |",
		"json":     `"moved_pages": 2`,
	} {
		var b bytes.Buffer
		if err := r.Write(&b, format); err != nil || !strings.Contains(b.String(), want) {
			t.Errorf("%s: %v\n%s", format, err, b.String())
		}
	}
	if err := r.Write(&bytes.Buffer{}, "smoke"); err == nil {
		t.Error("wrote smoke")
	}
}

func TestRoutes(t *testing.T) {
	all := Routes()
	if slices.Sort(all); len(slices.Compact(all)) != len(works()) {
		t.Errorf("a route is there twice: %q", all)
	}
}
