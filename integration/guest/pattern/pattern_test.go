package pattern_test

import (
	"testing"
	"unsafe"

	"qlive/integration/guest/pattern"

	"pgregory.net/rapid"
)

type page = [pattern.PageWords]uint64

func TestDiagnose(t *testing.T) {
	const seed, pages = 0x5eed_c0ffee_f00d42, 100
	write := func(seed uint64, index, gen uint32) *page {
		var p page
		pattern.Write(&p, seed, index, gen)
		return &p
	}
	half := write(seed, 7, 3)
	copy(half[256:], write(seed, 7, 2)[256:])
	flipped := write(seed, 7, 3)
	flipped[511] ^= 1
	tests := map[string]struct {
		page *page
		want string
		word int
	}{
		"fine":               {write(seed, 7, 3), pattern.Fine, 0},
		"never written":      {&page{}, pattern.Zero, 0},
		"earlier generation": {write(seed, 7, 2), pattern.Stale, 0},
		"later generation":   {write(seed, 7, 4), pattern.Stale, 0},
		"another page":       {write(seed, 8, 3), pattern.Moved, 0},
		"another guest's":    {write(seed^0x1234_5678_9abc_def0, 7, 3), pattern.Foreign, 0},
		"half of each":       {half, pattern.Torn, 256},
		"one bit":            {flipped, pattern.Torn, 511},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			what, word, _ := pattern.Diagnose(tt.page, seed, 7, 3, pages)
			if what != tt.want || word != tt.word {
				t.Errorf("Diagnose = %s at word %d, want %s at %d", what, word, tt.want, tt.word)
			}
			if ok, _ := pattern.Check(tt.page, seed, 7, 3); ok != (tt.want == pattern.Fine) {
				t.Errorf("Check = %v of a page that is %s", ok, tt.want)
			}
		})
	}
}

func TestEveryPageTellsWhereItBelongs(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seed := rapid.Uint64().Draw(t, "seed")
		index, gen := rapid.Uint32Max(1<<31).Draw(t, "index"), rapid.Uint32().Draw(t, "gen")
		var p page
		wrote := pattern.Write(&p, seed, index, gen)
		if i, g := pattern.Origin(seed, p[0]); i != index || g != gen {
			t.Errorf("Origin = %d, %d, want %d, %d", i, g, index, gen)
		}
		raw := unsafe.Slice((*byte)(unsafe.Pointer(&p)), pattern.PageBytes)
		if i, g, ok := pattern.Identify(raw, seed, index+1); !ok || i != index || g != gen {
			t.Errorf("Identify = %d, %d, %v", i, g, ok)
		}
		if _, _, ok := pattern.Identify(raw, seed, index); ok {
			t.Error("Identify found a page beyond the pattern's end")
		}
		ok, sum := pattern.Check(&p, seed, index, gen)
		if !ok || sum != wrote {
			t.Errorf("Check = %v, sum %x, written %x", ok, sum, wrote)
		}
		word, bit := rapid.IntRange(0, pattern.PageWords-1).Draw(t, "word"), rapid.IntRange(0, 63).Draw(t, "bit")
		p[word] ^= 1 << bit
		if ok, sum := pattern.Check(&p, seed, index, gen); ok || sum == wrote {
			t.Errorf("Check = %v, sum %x of a page with a bit flipped in word %d", ok, sum, word)
		}
		if _, _, ok := pattern.Identify(raw, seed, index+1); ok {
			t.Error("Identify took a page with a bit flipped")
		}
	})
}

func TestFoldKnowsTheOrder(t *testing.T) {
	if pattern.Fold(pattern.Fold(0, 1), 2) == pattern.Fold(pattern.Fold(0, 2), 1) {
		t.Error("two pages in another order have the same sum")
	}
}
