package stream_test

import (
	"bytes"
	"errors"
	"runtime"
	"strings"
	"testing"

	"qlive/vmstate/stream"
)

func TestParseErrors(t *testing.T) {
	one := func() *builder { return header().full(3, "rtc", []byte("abc")) }
	cases := []struct {
		name   string
		raw    []byte
		offset int
		want   string
	}{
		{"nothing", nil, 0, "ends before the first section"},
		{"only a header", header().b, 8, "ends before the first section"},
		{"something else", bytes.Repeat([]byte("elf!"), 9), 0, "magic is 0x656c6621"},
		{"old version", new(builder).u32(stream.Magic).u32(2).eof(), 4, "version is 2"},
		{"no EOF", header().u8(8).u16(1).u16(0).u8(8).b, 13, "instead of an EOF"},
		{"bytes after the EOF", header().u8(8).u16(1).u16(0).u8(0, 9, 9, 0).b, 13, "3 bytes follow the EOF"},
		{"device and bytes after the EOF", one().u8(0, 9, 9, 0).b, 8, "goes on after its end"},
		{"cut off payload", one().open(stream.KindFull, 4, "hpet", 1).raw(make([]byte, 40)).b, 33, "has no footer"},
		{"cut off header", one().u8(4, 0, 0).eof(), 33, "inside the header of a FULL"},
		{"unknown kind", header().u8(0x55).eof(), 8, "0x55 does not start a section"},
		{"the same id twice", header().ram().u64(0x10).footer(1).full(1, "hpet", nil).eof(), 61, `has the id of "ram"`},
		{"PART without START", one().u8(2).u32(9).footer(9).eof(), 33, "id 0x9, which no START had"},
		{"unreadable name", one().full(4, "\x01\x02", nil).eof(), 33, "without a readable name"},
		{"unknown command", header().u8(8).u16(99).u16(2).u16(0).eof(), 8, "command 99: is not known (2 bytes)"},
		{"command of another length", header().u8(8).u16(2).u16(2).u16(0).eof(), 8, "PING: has 2 bytes of data, should have 4"},
		{"packaged", header().u8(8).u16(7).u16(4).u32(0).eof(), 8, "only precopy is read"},
		{"machine name cut off", header().u8(7).u32(100).raw([]byte("pc")).eof(), 9, "no machine name"},
		{"unknown subsection", header().u8(7).u32(2).raw([]byte("pc")).u8(5).text("configuration/new").u32(1).eof(), 15, `"configuration/new" is not known`},
		{"subsection cut off", header().u8(7).u32(2).raw([]byte("pc")).u8(5).text("configuration/uuid").u32(1).eof(), 15, "is cut off"},
		{"other page size", header().u8(7).u32(2).raw([]byte("pc")).u8(5).text("configuration/target-page-bits").u32(1).u32(16).eof(), 8, "2^16 bytes are not read"},
		{"mapped-ram", header().u8(7).u32(2).raw([]byte("pc")).u8(5).text("configuration/capabilities").u32(1).u32(1).text("mapped-ram").eof(), 8, "not as a stream"},
		{"other version of ram", header().open(stream.KindStart, 1, "ram", 3).u64(0x10).footer(1).eof(), 8, "known is version 4"},
		{"RAM without end", header().ram().footer(1).eof(), 48, "ends inside a word"},
		{"unknown RAM flags", header().ram().u64(0x80).footer(1).eof(), 48, "flags 0x80 are not known"},
		{"page without a block", header().ram().u64(0x28).raw(make([]byte, 4096)).u64(0x10).footer(1).eof(), 48, "no page before it"},
		{"page of no block", header().ram().u64(0x02).text("vram").u8(0).u64(0x10).footer(1).eof(), 48, `of block "vram", which the block table does not have`},
		{"page behind the block", header().ram().u64(0x2002).text("pc.ram").u8(0).u64(0x10).footer(1).eof(), 48, "a page at 8192"},
		{"zero page of ones", header().ram().u64(0x02).text("pc.ram").u8(1).u64(0x10).footer(1).eof(), 48, "filled with 1"},
		{"table too short", header().open(stream.KindStart, 1, "ram", 4).u64(0x3004).text("a").u64(0x1000).u64(0x10).footer(1).eof(), 43, "8192 bytes of RAM are not accounted for"},
		{"block larger than the total", header().open(stream.KindStart, 1, "ram", 4).u64(0x1004).text("a").u64(0x2000).u64(0x10).footer(1).eof(), 33, "not accounted for"},
		{"description names another device", one().described(`{"devices":[{"name":"hpet","instance_id":0}]}`), 8, `the description has "hpet" instance 0 here`},
		{"description names more devices", one().described(`{"devices":[{"name":"rtc","instance_id":0},{"name":"hpet","instance_id":0}]}`), 33, "1 devices, but the description names 2"},
		{"postcopy with huge pages", header().u8(8).u16(3).u16(16).u64(0x200000).u64(0x1000).ram().u64(0x10).footer(1).eof(), 46, "announced as postcopy"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, err := stream.Parse(c.raw)
			var format *stream.FormatError
			if !errors.As(err, &format) {
				t.Fatalf("got %v, want a *FormatError", err)
			}
			if format.Offset != c.offset || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %q at %d; want %q at %d", err, format.Offset, c.want, c.offset)
			}
			if errors.Is(err, stream.ErrAmbiguous) {
				t.Error("is said to be ambiguous")
			}
		})
	}
}

// A payload may hold what looks like its own footer, even with a section behind it, as long as that
// leads to nothing.
func TestFooterInPayload(t *testing.T) {
	cases := map[string][]byte{
		"footer":                        new(builder).raw([]byte("abc")).footer(3).raw([]byte("def")).b,
		"footer and EOF":                new(builder).footer(3).u8(0).raw([]byte("def")).b,
		"footer and another section":    new(builder).footer(3).full(9, "fake", []byte("x")).raw([]byte("def")).b,
		"footer and half a section":     new(builder).footer(3).u8(4).u32(9).text("fake").b,
		"many footers":                  bytes.Repeat(new(builder).footer(3).u8(8).b, 50),
		"footer and the real first one": new(builder).footer(3).full(2, "apic", []byte("x")).b,
	}
	for name, payload := range cases {
		t.Run(name, func(t *testing.T) {
			raw := header().full(2, "apic", nil).full(3, "rtc", payload).full(4, "hpet", []byte("tail")).eof()
			s := mustParse(t, raw)
			if len(s.Sections) != 3 || !bytes.Equal(s.Payload(s.Sections[1]), payload) {
				t.Errorf("read as %v", s.Sections)
			}
		})
	}
}

// ambiguous can be read as three sections, or as two of which the second is laid into the first one's payload.
func ambiguous() *builder {
	fake := new(builder).raw([]byte("abc")).footer(3).open(stream.KindFull, 4, "fake", 1).b
	return header().full(3, "rtc", fake).full(4, "hpet", []byte("tail"))
}

func TestAmbiguous(t *testing.T) {
	_, err := stream.Parse(ambiguous().eof())
	if !errors.Is(err, stream.ErrAmbiguous) {
		t.Fatalf("got %v, want one that wraps ErrAmbiguous", err)
	}
	s, err := stream.Parse(ambiguous().described(`{"devices":[{"name":"rtc","instance_id":0},{"name":"hpet","instance_id":0}]}`))
	if err != nil {
		t.Fatalf("with a description: %v", err)
	}
	if len(s.Devices()) != 2 || s.Devices()[1].Name != "hpet" {
		t.Errorf("with a description: %v", s.Sections)
	}
}

// Whatever the input, memory and work stay in proportion to it.
func TestBounded(t *testing.T) {
	size := 1 << 20
	inputs := map[string]func() []byte{
		"commands": func() []byte {
			w := header()
			for len(w.b) < size {
				w.u8(8).u16(1).u16(0)
			}
			return w.eof()
		},
		"footers of one section": func() []byte {
			w := header().open(stream.KindFull, 3, "rtc", 1)
			for len(w.b) < size {
				w.footer(3).u8(8)
			}
			return w.footer(3).eof()
		},
		"sections that do not end": func() []byte {
			w := header().open(stream.KindFull, 0, "x", 1)
			for id := uint32(1); len(w.b) < size; id++ {
				w.footer(id-1).open(stream.KindFull, id, "x", 1)
			}
			return w.eof()
		},
		"sections with two ends each": func() []byte {
			w := header()
			for id := uint32(0); len(w.b) < size; id++ {
				inner := new(builder).footer(2*id).full(2*id+1, "y", []byte("z")).b
				w.full(2*id, "x", inner)
			}
			return w.u8(9).eof()
		},
		"blocks": func() []byte {
			w := header().open(stream.KindStart, 1, "ram", 4).u64(1<<40 | 4)
			for len(w.b) < size {
				w.text("a").u64(4096)
			}
			return w.eof()
		},
		"zero pages": func() []byte {
			w := header().ram()
			w.u64(0x02).text("pc.ram").u8(0)
			for len(w.b) < size {
				w.u64(0x22).u8(0)
			}
			return w.u64(0x10).footer(1).eof()
		},
	}
	for name, input := range inputs {
		t.Run(name, func(t *testing.T) {
			raw := input()
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := stream.Parse(raw)
			runtime.ReadMemStats(&after)
			allocated := after.TotalAlloc - before.TotalAlloc
			t.Logf("%d bytes: allocated %.1f times as much, %v", len(raw), float64(allocated)/float64(len(raw)), err)
			if allocated > 100*uint64(len(raw)) {
				t.Errorf("allocated %d bytes for an input of %d", allocated, len(raw))
			}
		})
	}
}

func BenchmarkDevices(b *testing.B) {
	raw := captured(b, "11.1.3.devices")
	b.SetBytes(int64(len(raw)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := stream.Devices(raw); err != nil {
			b.Fatal(err)
		}
	}
}
