package stream_test

import (
	"bytes"
	"cmp"
	"errors"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"qlive/vmstate/stream"
)

// through is a sieve with a target behind it.
type through struct {
	sieve  stream.Sieve
	target loader
	rest   []byte
}

func newThrough() *through {
	p := &through{target: loader{placed: map[spot]byte{}}}
	p.sieve.Begin()
	return p
}

// put gives the sieve more of the stream, and the target what comes of it.
func (p *through) put(b []byte) error {
	b = append(p.rest, b...)
	pieces, n := p.sieve.Sift(b, nil)
	out := append(bytes.Join(pieces, nil), p.sieve.Owed()...)
	p.rest = bytes.Clone(b[n:])
	return p.target.take(out)
}

func ask(s spot) stream.Message {
	return stream.Message{Type: stream.MessageReqPagesID, Block: s.block, Offset: s.page * stream.PageBytes, Length: stream.PageBytes}
}

// Whatever is sent, cut into whatever pieces, and whatever is asked for in between: the target has the same memory in the end, gets no page twice,
// all that it waits for, and nothing that is zero and was not asked for.
func TestSieveLeavesMemoryAsItIs(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		blocks := map[string]uint64{"pc.ram": rapid.Uint64Range(1, 70).Draw(t, "pages"), "0000:00:01.0/vga.vram": rapid.Uint64Range(1, 9).Draw(t, "vram")}
		var all []spot
		for _, name := range []string{"0000:00:01.0/vga.vram", "pc.ram"} {
			for page := range blocks[name] {
				all = append(all, spot{name, page})
			}
		}
		fill := rapid.Custom(func(t *rapid.T) byte { return rapid.SampledFrom([]byte{0, 0, 0, 1, 2, 3}).Draw(t, "fill") })
		want := map[spot]byte{}
		w := begun(blocks)
		if n := rapid.IntRange(0, 3).Draw(t, "before the switch"); n > 0 {
			w.part(stream.KindPart)
			for range n {
				w.page(rapid.SampledFrom(all).Draw(t, "spot"), fill.Draw(t, "fill"))
			}
			w.end()
		}
		w.packaged()
		order := rapid.Permutation(all).Draw(t, "order")
		if rapid.Bool().Draw(t, "in order") {
			order = all
		}
		for i, s := range order {
			if i == 0 {
				w.part(stream.KindPart)
			} else if rapid.IntRange(0, 9).Draw(t, "new section") == 0 {
				w.end().ping(5).part(stream.KindPart)
			}
			want[s] = fill.Draw(t, "fill")
			w.page(s, want[s])
		}
		w.end().part(stream.KindEnd).end()
		sent := w.eof()

		p, asked := newThrough(), map[spot]bool{}
		for left := sent; len(left) > 0; {
			n := rapid.IntRange(1, min(len(left), rapid.SampledFrom([]int{3, 40, 5000, 1 << 20}).Draw(t, "most"))).Draw(t, "bytes")
			if err := p.put(left[:n]); err != nil {
				t.Fatal(err)
			}
			left = left[n:]
			for range rapid.IntRange(0, 2).Draw(t, "requests") {
				if s := rapid.SampledFrom(all).Draw(t, "wanted"); p.target.running && !p.target.ended {
					asked[s] = true
					p.sieve.Heard(ask(s))
				}
			}
		}
		gaveUp := false
		if p.sieve.Waits() {
			if gaveUp = rapid.Bool().Draw(t, "give up"); gaveUp {
				p.sieve.GiveAll("the target has said nothing")
			}
			p.sieve.Heard(stream.Message{Type: stream.MessagePong, Value: 3})
		}
		if err := p.put(nil); err != nil || !p.target.ended || len(p.rest)+len(p.target.in) > 0 {
			t.Fatalf("ended %v, %d and %d bytes are left: %v", p.target.ended, len(p.rest), len(p.target.in), err)
		}
		for s, fill := range want {
			got, placed := p.target.placed[s]
			switch {
			case got != fill:
				t.Errorf("page %v holds %d, not %d", s, got, fill)
			case asked[s] && !placed:
				t.Errorf("page %v was asked for and never came", s)
			case placed && fill == 0 && !asked[s] && !gaveUp:
				t.Errorf("page %v of zeroes came unasked", s)
			}
		}
	})
}

// ramOf is the memory of these tests.
func ramOf() map[string]uint64 { return map[string]uint64{"pc.ram": 8, "vga": 2} }

func TestSieve(t *testing.T) {
	spots := func(block string, pages ...uint64) (list []spot) {
		for _, p := range pages {
			list = append(list, spot{block, p})
		}
		return list
	}
	for name, tt := range map[string]struct {
		stream func(*postcopy)
		heard  []stream.Message // before the stream
		later  []stream.Message // after it
		came   []spot
		aside  string
		ended  bool
	}{
		"pages of zeroes stay behind": {
			stream: func(w *postcopy) {
				w.part(stream.KindPart).page(spot{"pc.ram", 0}, 0).page(spot{"pc.ram", 1}, 7).page(spot{"vga", 0}, 0).page(spot{"pc.ram", 2}, 0).end()
			},
			came: spots("pc.ram", 1),
		},
		"one that was asked for before it came goes on": {
			stream: func(w *postcopy) {
				w.part(stream.KindPart).page(spot{"pc.ram", 0}, 0).page(spot{"pc.ram", 1}, 0).page(spot{"pc.ram", 2}, 0).end()
			},
			heard: []stream.Message{ask(spot{"pc.ram", 2})}, came: spots("pc.ram", 2),
		},
		"one that is asked for later comes, once": {
			stream: func(w *postcopy) { w.part(stream.KindPart).page(spot{"vga", 1}, 0).page(spot{"pc.ram", 1}, 0).end() },
			later:  []stream.Message{ask(spot{"vga", 1}), {Type: stream.MessageReqPages, Offset: stream.PageBytes, Length: stream.PageBytes}}, came: spots("vga", 1),
		},
		"several are asked for at once": {
			stream: func(w *postcopy) { w.part(stream.KindPart).page(spot{"pc.ram", 3}, 0).page(spot{"pc.ram", 4}, 0).end() },
			later:  []stream.Message{{Type: stream.MessageReqPagesID, Block: "pc.ram", Offset: 3 * stream.PageBytes, Length: 1 << 20}}, came: spots("pc.ram", 3, 4),
		},
		"the end waits for the target": {
			stream: func(w *postcopy) { w.part(stream.KindEnd).page(spot{"pc.ram", 0}, 0).end().eof() },
		},
		"the end does not wait for a target that has loaded": {
			stream: func(w *postcopy) { w.part(stream.KindEnd).page(spot{"pc.ram", 0}, 0).end().eof() },
			heard:  []stream.Message{{Type: stream.MessagePong, Value: 3}}, ended: true,
		},
		"the end does not wait if nothing is kept back": {
			stream: func(w *postcopy) { w.part(stream.KindEnd).page(spot{"pc.ram", 0}, 1).end().eof() }, came: spots("pc.ram", 0), ended: true,
		},
		"what is not understood brings back all": {
			stream: func(w *postcopy) {
				w.part(stream.KindPart).page(spot{"pc.ram", 0}, 0).page(spot{"vga", 1}, 0).end().part(stream.KindPart).page(spot{"pc.ram", 9}, 0)
			},
			came: append(spots("pc.ram", 0, 9), spots("vga", 1)...), aside: "the source sends what is not understood",
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := begun(ramOf()).packaged()
			p := newThrough()
			err := p.put(w.b)
			for _, m := range tt.heard {
				p.sieve.Heard(m)
			}
			w.b = nil
			tt.stream(w)
			err = errors.Join(err, p.put(w.b))
			for _, m := range tt.later {
				p.sieve.Heard(m)
			}
			if err = errors.Join(err, p.put(nil)); err != nil {
				t.Fatal(err)
			}
			got := slices.SortedFunc(maps.Keys(p.target.placed), func(a, b spot) int {
				return cmp.Or(cmp.Compare(a.block, b.block), cmp.Compare(a.page, b.page))
			})
			if !slices.Equal(got, tt.came) || p.sieve.Aside() != tt.aside || p.target.ended != tt.ended {
				t.Errorf("%v came, aside %q, ended %v", got, p.sieve.Aside(), p.target.ended)
			}
		})
	}
}

// A stream that is no postcopy of plain RAM passes as it is.
func TestSievePassesWhatItDoesNotKnow(t *testing.T) {
	for name, b := range map[string][]byte{
		"no stream":            []byte("anything at all"),
		"a device before RAM":  header().full(1, "virtio-mem", []byte("x")).eof(),
		"shared blocks":        header().u8(7).u32(2).raw([]byte("pc")).u8(5).text("configuration/capabilities").u32(1).u32(1).text("x-ignore-shared").eof(),
		"no footer":            header().open(stream.KindStart, 2, "ram", 4).u64(stream.PageBytes | wordSize).text("a").u64(stream.PageBytes).u64(wordEOS).u8(2).u32(2).eof(),
		"pages of other sizes": header().open(stream.KindStart, 2, "ram", 4).u64(stream.PageBytes | wordSize).text("a").u64(stream.PageBytes).u64(2 << 20).eof(),
		"a header without end": append(header().u8(7).u32(1<<30).b, make([]byte, 1<<17)...),
	} {
		t.Run(name, func(t *testing.T) {
			var s stream.Sieve
			pieces, n := s.Sift(b, nil)
			if out := bytes.Join(pieces, nil); n != len(b) || !bytes.Equal(out, b) || s.Aside() == "" {
				t.Errorf("%d bytes of %d were read, %d came out, aside %q", n, len(b), len(out), s.Aside())
			}
		})
	}
}

// FuzzSieve: whatever it is given, in whatever pieces, nothing but pages of zeroes stays behind, and those come if they are asked for.
func FuzzSieve(f *testing.F) {
	w := begun(ramOf()).packaged().part(stream.KindPart).page(spot{"pc.ram", 0}, 0).page(spot{"vga", 1}, 0).page(spot{"pc.ram", 3}, 5).end()
	f.Add(w.b, uint16(1000))
	f.Add(w.eof(), uint16(7))
	f.Add(header().full(1, "x", []byte("y")).eof(), uint16(3))
	f.Fuzz(func(t *testing.T, raw []byte, size uint16) {
		var one, many stream.Sieve
		one.Begin()
		many.Begin()
		pieces, n := one.Sift(raw, nil)
		whole := bytes.Join(pieces, nil)
		var parts, rest []byte
		for left := raw; len(left) > 0; {
			k := min(len(left), 1+int(size))
			rest = append(rest, left[:k]...)
			out, read := many.Sift(rest, nil)
			parts, rest, left = append(parts, bytes.Join(out, nil)...), bytes.Clone(rest[read:]), left[k:]
		}
		if !bytes.Equal(whole, parts) || len(rest) != len(raw)-n {
			t.Fatalf("%d bytes came at once, %d in pieces; %d and %d were not read", len(whole), len(parts), len(raw)-n, len(rest))
		}
		if kept := one.Stats().Kept; uint64(len(whole))+9*kept > uint64(n)+kept*256*9 || one.Aside() == "" && kept == 0 && len(whole) != n {
			t.Fatalf("%d bytes of %d came, %d pages are kept", len(whole), n, kept)
		}
		one.GiveAll("the end")
		if s := one.Stats(); one.Aside() == "" || s.Given > s.Kept || s.Kept > s.Zeroes {
			t.Fatalf("%+v", s)
		}
	})
}
