package stream_test

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"qlive/vmstate/stream"
)

// FuzzParse: whatever it is given, the reader ends with sections that lie in the stream, one behind the
// other, or with an error that says where.
func FuzzParse(f *testing.F) {
	for _, version := range versions() {
		f.Add(trimmed(f, version+".devices"))
		f.Add(trimmed(f, version+".migration"))
	}
	f.Add(devices())
	f.Add(ambiguous().eof())
	f.Add(header().ram().u64(0x48).text("pc.ram").u8(1).u16(3).u8(1, 2, 3).u64(0x10).footer(1).described("{}"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		s, err := stream.Parse(raw)
		if err != nil {
			var format *stream.FormatError
			if !errors.As(err, &format) || format.Offset < 0 || format.Offset > len(raw) {
				t.Fatalf("error %v", err)
			}
			return
		}
		at := 8
		for _, section := range s.Sections {
			if section.Offset < at || section.Payload.Start <= section.Offset || section.Payload.End < section.Payload.Start || section.Payload.End > len(raw) {
				t.Fatalf("%s at %d has payload %v", section, section.Offset, section.Payload)
			}
			at = section.Payload.End
		}
		for page := range s.Pages() {
			if len(page.Data) != 0 && len(page.Data) != stream.PageBytes && !page.Packed {
				t.Fatalf("page of %d bytes", len(page.Data))
			}
		}
		s.RunState()
		finish(t, raw, s)
	})
}

// trimmed is a capture without its long sections and its description, which would only make the fuzzer slow.
func trimmed(f *testing.F, name string) []byte {
	raw := captured(f, name)
	s := mustParse(f, raw)
	short := bytes.Clone(raw[:s.Sections[0].Offset])
	for _, section := range s.Sections {
		if section.Kind == stream.KindPart || section.Payload.Len() > 200 {
			continue
		}
		short = append(short, raw[section.Offset:section.Payload.End+5]...)
	}
	return append(short, 0)
}

// finish lets the composer take the state over, and reads what came of it.
func finish(t *testing.T, raw []byte, s *stream.Stream) {
	var out bytes.Buffer
	c := composer(t, &out)
	if err := c.Begin(blocks()); err != nil {
		t.Fatal(err)
	}
	if c.Finish(raw, stream.Finish{}) != nil {
		return
	}
	again, err := stream.Parse(out.Bytes())
	if errors.Is(err, stream.ErrAmbiguous) {
		return // with another end there may be another way to read it
	}
	if err != nil {
		t.Fatalf("composed of a good state: %v", err)
	}
	if len(again.Devices()) != len(s.Devices()) {
		t.Fatalf("%d devices of %d", len(again.Devices()), len(s.Devices()))
	}
}

// FuzzReturnPath: the reader ends, with an error that stays.
func FuzzReturnPath(f *testing.F) {
	f.Add(message(2, 4, new(builder).u32(1)))
	f.Add(message(3, 19, new(builder).u64(4096).u32(8192).text("pc.ram")))
	f.Add(message(5, 7, new(builder).text("pc.ram")))
	f.Add([]byte{0, 99, 0, 1, 5, 0, 1, 0, 4, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, raw []byte) {
		p := stream.NewReturnPath(bytes.NewReader(raw))
		for n := 0; ; n++ {
			m, err := p.Next()
			var unknown *stream.UnknownMessageError
			if err == nil || errors.As(err, &unknown) {
				if n > len(raw)/4 {
					t.Fatalf("%d messages in %d bytes, the last %+v", n, len(raw), m)
				}
				continue
			}
			if _, again := p.Next(); again != err {
				t.Fatalf("after %v came %v", err, again)
			}
			if err == io.EOF && n == 0 && len(raw) > 0 {
				t.Fatal("bytes were lost")
			}
			return
		}
	})
}
