package pattern

import (
	"encoding/binary"
	"math/bits"
)

// Geometry of a page.
const (
	PageBytes = 4096
	PageWords = PageBytes / 8
)

// step is added from word to word; odd, so that no two words of a page are equal.
const step = 0x9e3779b97f4a7c15

// First returns the first word of page number index in generation gen under seed. The mapping is
// one to one, so Origin can tell from a word whose page it is.
func First(seed uint64, index, gen uint32) uint64 {
	x := uint64(gen)<<32 | uint64(index)
	x ^= seed
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// Origin is the inverse of First.
func Origin(seed, first uint64) (index, gen uint32) {
	x := first
	x ^= x>>31 ^ x>>62
	x *= 0x319642b2d24d8ec3 // inverse of 0x94d049bb133111eb modulo 2^64
	x ^= x>>27 ^ x>>54
	x *= 0x96de1b173f119089 // inverse of 0xbf58476d1ce4e5b9 modulo 2^64
	x ^= x>>30 ^ x>>60
	x ^= seed
	return uint32(x), uint32(x >> 32)
}

// Write fills a page. It returns the sum of its words, as Check does.
func Write(page *[PageWords]uint64, seed uint64, index, gen uint32) (sum uint64) {
	v := First(seed, index, gen)
	for i := range page {
		page[i] = v
		sum += v
		v += step
	}
	return sum
}

// Check reports whether a page holds exactly what Write puts there, and the sum of its words as they are.
func Check(page *[PageWords]uint64, seed uint64, index, gen uint32) (ok bool, sum uint64) {
	v := First(seed, index, gen)
	var wrong uint64
	for i := 0; i < PageWords; i += 4 {
		a, b, c, d := page[i], page[i+1], page[i+2], page[i+3]
		wrong |= (a ^ v) | (b ^ (v + step)) | (c ^ (v + 2*step&mask)) | (d ^ (v + 3*step&mask))
		sum += a + b + c + d
		v += 4 * step & mask
	}
	return wrong == 0, sum
}

// mask keeps the constant multiples of step within 64 bits.
const mask = 1<<64 - 1

// Fold adds the sum of one page to the sum of many; the order of the pages matters.
func Fold(sum, page uint64) uint64 { return bits.RotateLeft64(sum, 1) + page }

// The verdicts of Diagnose.
const (
	Fine    = "fine"
	Zero    = "zero"    // all zero: never written, or lost
	Stale   = "stale"   // another generation of this very page
	Moved   = "moved"   // a whole page of the pattern, but another one
	Torn    = "torn"    // begins as it should, and goes on otherwise
	Foreign = "foreign" // nothing of the pattern
)

// Diagnose says what is wrong with a page that should be page number index in generation gen, of a
// pattern of pages pages, and gives the first word that is wrong with what it should be.
func Diagnose(page *[PageWords]uint64, seed uint64, index, gen, pages uint32) (what string, word int, want uint64) {
	word, want = firstWrong(page, First(seed, index, gen))
	if word == PageWords {
		return Fine, 0, page[0]
	}
	if *page == ([PageWords]uint64{}) {
		return Zero, word, want
	}
	if word > 0 {
		return Torn, word, want
	}
	if whole, _ := firstWrong(page, page[0]); whole == PageWords {
		i, g := Origin(seed, page[0])
		if i == index && g != gen {
			return Stale, word, want
		}
		if i < pages && i != index {
			return Moved, word, want
		}
	}
	return Foreign, word, want
}

// firstWrong returns the first word that differs from a page beginning with v, PageWords if none does.
func firstWrong(page *[PageWords]uint64, v uint64) (word int, want uint64) {
	for i, w := range page {
		if w != v {
			return i, v
		}
		v += step
	}
	return PageWords, 0
}

// Identify tells whether a page of raw bytes as found in a guest's RAM is a whole page of the
// pattern under seed, of at most pages pages, and which.
func Identify(raw []byte, seed uint64, pages uint32) (index, gen uint32, ok bool) {
	if len(raw) != PageBytes {
		return 0, 0, false
	}
	v := binary.LittleEndian.Uint64(raw)
	index, gen = Origin(seed, v)
	if index >= pages {
		return 0, 0, false
	}
	for i := 0; i < PageBytes; i += 8 {
		if binary.LittleEndian.Uint64(raw[i:]) != v {
			return 0, 0, false
		}
		v += step
	}
	return index, gen, true
}
