package flip

import (
	"slices"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"qlive/flip/memory"
	"qlive/internal/proc"
	"qlive/vmstate"
)

const testPages = 8 // of the region

func newRegion(t *testing.T) *memory.Region {
	t.Helper()
	set, err := memory.Create(vmstate.MemorySpec{}, "vm1", []memory.Want{{Name: "pc.ram", SizeBytes: testPages * targetPage}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = set.Close() })
	return set.Regions()[0]
}

// of is a mapping of r's pages from first on, at some address.
func of(r *memory.Region, at, first, pages uint64) proc.Mapping {
	return proc.Mapping{
		Start: at * targetPage, End: (at + pages) * targetPage, Offset: first * targetPage, Read: true, Write: true, Shared: true,
		Inode: r.Inode(), DevMajor: unix.Major(r.Dev()), DevMinor: unix.Minor(r.Dev()),
	}
}

func TestMappedBytes(t *testing.T) {
	r := newRegion(t)
	changed := func(change func(*proc.Mapping)) []proc.Mapping {
		m := of(r, 100, 0, testPages)
		change(&m)
		return []proc.Mapping{m}
	}
	for _, tt := range []struct {
		name string
		maps []proc.Mapping
		want uint64 // pages
	}{
		{"whole", []proc.Mapping{of(r, 100, 0, testPages)}, testPages},
		{"in two, the other way round in memory", []proc.Mapping{of(r, 100, 3, 5), of(r, 200, 0, 3)}, testPages},
		{"twice", []proc.Mapping{of(r, 100, 0, testPages), of(r, 200, 0, testPages)}, testPages},
		{"two that overlap", []proc.Mapping{of(r, 100, 0, 5), of(r, 200, 3, 5)}, testPages},
		{"beyond the end", []proc.Mapping{of(r, 100, 0, testPages+4)}, testPages},
		{"a gap", []proc.Mapping{of(r, 100, 0, 3), of(r, 200, 4, 4)}, 3},
		{"not from the start", []proc.Mapping{of(r, 100, 1, 7)}, 0},
		{"not to the end", []proc.Mapping{of(r, 100, 0, 7)}, 7},
		{"nothing", nil, 0},
		{"private", changed(func(m *proc.Mapping) { m.Shared = false }), 0},
		{"not writable", changed(func(m *proc.Mapping) { m.Write = false }), 0},
		{"not readable", changed(func(m *proc.Mapping) { m.Read = false }), 0},
		{"another file", changed(func(m *proc.Mapping) { m.Inode++ }), 0},
		{"another file system", changed(func(m *proc.Mapping) { m.DevMinor++ }), 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := mappedBytes(tt.maps, r); got != tt.want*targetPage {
				t.Errorf("got %d bytes, want %d pages", got, tt.want)
			}
		})
	}
}

// mappedBytes agrees with counting pages.
func TestMappedBytesByPages(t *testing.T) {
	r := newRegion(t)
	rapid.Check(t, func(t *rapid.T) {
		var maps []proc.Mapping
		var has [testPages + 8]bool
		for i := range rapid.Uint64Range(0, 5).Draw(t, "mappings") {
			first, pages := rapid.Uint64Range(0, testPages-1).Draw(t, "first"), rapid.Uint64Range(1, 8).Draw(t, "pages")
			m := of(r, 100*(i+1), first, pages)
			m.Shared = rapid.IntRange(0, 3).Draw(t, "shared") > 0
			for p := first; p < first+pages && m.Shared; p++ {
				has[p] = true
			}
			maps = append(maps, m)
		}
		want := min(uint64(slices.Index(append(has[:], false), false)), testPages)
		if got := mappedBytes(maps, r); got != want*targetPage {
			t.Errorf("%d bytes of %+v, want %d pages", got, maps, want)
		}
	})
}

// Whatever is observed in whatever order, what is shown of a region never goes back before the handoff is undone.
func TestProgressNeverGoesBack(t *testing.T) {
	states := vmstate.RegionStates()
	rapid.Check(t, func(rt *rapid.T) {
		h, _, _ := newBare(t, nil)
		last := h.Migration()
		for range rapid.IntRange(1, 12).Draw(rt, "observations") {
			bytes := func(what string) uint64 { return rapid.Uint64Range(0, 2<<20).Draw(rt, what) }
			h.observe(rapid.SampledFrom([]string{"pc.ram", "far", "none"}).Draw(rt, "region"), rapid.SampledFrom(states).Draw(rt, "state"),
				bytes("mapped"), bytes("populated"), bytes("flipped"), bytes("released"))
			now := h.Migration()
			if now.Progress < last.Progress || now.Progress > 100 {
				rt.Fatalf("progress goes from %d to %d", last.Progress, now.Progress)
			}
			for i, r := range now.Regions {
				was := last.Regions[i]
				back := r.State.Rank() < was.State.Rank() || r.DoneBytes < was.DoneBytes || r.MappedBytes < was.MappedBytes ||
					r.PopulatedBytes < was.PopulatedBytes || r.FlippedBytes < was.FlippedBytes || r.ReleasedBytes < was.ReleasedBytes
				if back || r.DoneBytes > r.TotalBytes {
					rt.Fatalf("region goes from %+v to %+v", was, r)
				}
			}
			last = now
		}
	})
}

// What was published does not change afterwards.
func TestPublishedIsACopy(t *testing.T) {
	h, _, published := newBare(t, nil)
	h.observe("pc.ram", vmstate.Mapped, 1<<20, 0, 0, 0)
	h.publish()
	h.observe("pc.ram", vmstate.Released, 1<<20, 1<<20, 1<<20, 1<<20)
	h.warn("something")
	first := (*published)[0]
	if first.Regions[0].State != vmstate.Mapped || len(first.Warnings) != 0 || len(first.Log) != 0 {
		t.Errorf("what was published has become %+v", first)
	}
}
