package main

import (
	"strings"
	"sync"
	"testing"
	"time"

	"qlive/integration/guest/pattern"

	"github.com/google/go-cmp/cmp"
)

func TestReadParams(t *testing.T) {
	std := params{fillMiB: 64, dirtyMiB: 4, dirtyPPS: 1000, verify: 5 * time.Second, beat: 2 * time.Millisecond}
	with := func(change func(*params)) params {
		p := std
		change(&p)
		return p
	}
	tests := map[string]struct {
		cmdline string
		want    params
		err     string
	}{
		"none":           {"console=ttyS0 quiet\n", std, ""},
		"all":            {"qlive.fill_mb=8 qlive.dirty_mb=0 x=y qlive.dirty_pps=7 qlive.verify_s=0 qlive.beat_us=500", params{fillMiB: 8, dirtyPPS: 7, beat: 500 * time.Microsecond}, ""},
		"no number":      {"qlive.fill_mb=many", std, "give it a whole number"},
		"negative":       {"qlive.fill_mb=-1", std, "give it a whole number"},
		"unknown":        {"qlive.fil_mb=1", std, "no such parameter"},
		"dirty too much": {"qlive.fill_mb=4 qlive.dirty_mb=5", with(func(p *params) { p.fillMiB, p.dirtyMiB = 4, 5 }), "dirty <= fill"},
		"nothing to do":  {"qlive.fill_mb=0", with(func(p *params) { p.fillMiB = 0 }), "0 < fill"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := readParams(tt.cmdline)
			if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(params{})); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			if (err == nil) != (tt.err == "") || (err != nil && !strings.Contains(err.Error(), tt.err)) {
				t.Errorf("error %v, want %q", err, tt.err)
			}
		})
	}
}

func never() bool { return false }

func newTestMemory(t *testing.T) (*memory, uint64) {
	t.Helper()
	m, err := newMemory(0x5eed, 2, 1)
	if err != nil {
		t.Fatal(err)
	}
	return m, m.fill()
}

func TestVerifyFindsNothingWrong(t *testing.T) {
	m, sum := newTestMemory(t)
	for range 3 {
		m.dirty(300) // more than there are: every page once, some twice
		res, bad, done := m.verify(never)
		if !done || !res.OK || res.Bad != 0 || res.Pages != 512 || res.Sum != sum || bad != nil {
			t.Errorf("verify = %+v, %+v, %v; sum when filled %x", res, bad, done, sum)
		}
	}
	if got := m.written.Load(); got != 512+3*256 {
		t.Errorf("%d pages written", got)
	}
}

func TestVerifyFindsEveryWrongPage(t *testing.T) {
	tests := map[string]struct {
		harm func(m *memory)
		page uint64
		what string
		sum  bool // the sum of what is never rewritten changes
	}{
		"a bit of a static page":  {func(m *memory) { m.pages[3][77] ^= 1 << 40 }, 3, pattern.Torn, true},
		"a static page lost":      {func(m *memory) { m.pages[3] = page{} }, 3, pattern.Zero, true},
		"a static page elsewhere": {func(m *memory) { m.pages[3] = m.pages[4] }, 3, pattern.Moved, true},
		"a dirty page stale":      {func(m *memory) { old := m.pages[300]; m.dirty(256); m.pages[300] = old }, 300, pattern.Stale, false},
		"the last word":           {func(m *memory) { m.pages[511][511]++ }, 511, pattern.Torn, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			m, sum := newTestMemory(t)
			m.dirty(256)
			tt.harm(m)
			res, bad, done := m.verify(never)
			if !done || res.OK || res.Bad != 1 || len(bad) != 1 || bad[0].Page != tt.page || bad[0].What != tt.what {
				t.Errorf("verify = %+v, %+v, %v", res, bad, done)
			}
			if (res.Sum != sum) != tt.sum {
				t.Errorf("sum %x, when filled %x", res.Sum, sum)
			}
		})
	}
}

func TestVerifyDescribesOnlyAFew(t *testing.T) {
	m, _ := newTestMemory(t)
	clear(m.pages)
	res, bad, _ := m.verify(never)
	if res.Bad != 512 || len(bad) != maxBad {
		t.Errorf("%d bad, %d described", res.Bad, len(bad))
	}
}

func TestVerifyStopsWhenTold(t *testing.T) {
	m, _ := newTestMemory(t)
	asked := 0
	if _, _, done := m.verify(func() bool { asked++; return asked == 3 }); done || asked != 3 {
		t.Errorf("done = %v after %d questions", done, asked)
	}
}

func TestVerifyWhileRewriting(t *testing.T) {
	m, sum := newTestMemory(t)
	var rewriting sync.WaitGroup
	rewriting.Go(func() {
		for range 200 {
			m.dirty(32)
		}
	})
	for range 20 {
		if res, bad, _ := m.verify(never); !res.OK || res.Sum != sum {
			t.Fatalf("verify = %+v, %+v", res, bad)
		}
	}
	rewriting.Wait()
}

func TestClockGoesOn(t *testing.T) {
	c := newClock()
	began := c.now()
	c.sleepUntil(began + int64(3*time.Millisecond))
	if woke := c.now(); woke < began+int64(3*time.Millisecond) {
		t.Errorf("woke %d ns after %d", woke-began, began)
	}
}
