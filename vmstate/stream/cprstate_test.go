package stream_test

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"qlive/vmstate/stream"
)

// cprHead, cprEntry and cprVFIO are as 10.0.2 and 11.1.3 sent them.
const (
	cprHead = "QCPR\x00\x00\x00\x01"
	cprBIOS = "\x01\x00\x00\x00\x08pc.bios\x00\x00\x00\x00\x00 "
	cprROM  = "\x01\x00\x00\x00\x07pc.rom\x00\x00\x00\x00\x02 "
	cprVFIO = "\x05\x15CprState/vfio devices\x00\x00\x00\x01\x00"
)

func TestCPRState(t *testing.T) {
	two := []stream.CPRDescriptor{{Name: "pc.bios", At: 25}, {Name: "pc.rom", ID: 2, At: 42}}
	tests := map[string]struct {
		in   string
		want []stream.CPRDescriptor
		bad  int    // offset of the fault; -1 for none
		old  string // for a target before 10.1; empty if there is no way to say it
	}{
		"nothing given":            {cprHead + "\x00", nil, -1, cprHead + "\x00"},
		"of 10.0":                  {cprHead + cprBIOS + cprROM + "\x00", two, -1, cprHead + cprBIOS + cprROM + "\x00"},
		"of 11.1":                  {cprHead + cprBIOS + cprROM + "\x00" + cprVFIO, two, -1, cprHead + cprBIOS + cprROM + "\x00"},
		"with a device of VFIO":    {cprHead + cprBIOS + "\x00" + cprVFIO[:len(cprVFIO)-1] + "\x01dev\x00", two[:1], -1, ""},
		"with something unknown":   {cprHead + "\x00\x05\x03new", nil, -1, ""},
		"empty":                    {"", nil, 0, ""},
		"other magic":              {"QEVM\x00\x00\x00\x03\x00", nil, 0, ""},
		"other version":            {"QCPR\x00\x00\x00\x02\x00", nil, 0, ""},
		"no end":                   {cprHead + cprBIOS, nil, 26, ""},
		"cut in the name":          {cprHead + cprBIOS[:8], nil, 8, ""},
		"cut in the length":        {cprHead + "\x01\x00\x00", nil, 8, ""},
		"name longer than all":     {cprHead + "\x01\xff\xff\xff\xffx\x00\x00\x00\x00\x00 \x00", nil, 8, ""},
		"name without end":         {cprHead + "\x01\x00\x00\x00\x02xx\x00\x00\x00\x00 \x00", nil, 8, ""},
		"name of no bytes":         {cprHead + "\x01\x00\x00\x00\x00\x00\x00\x00\x00 \x00", nil, 8, ""},
		"no byte for a descriptor": {cprHead + "\x01\x00\x00\x00\x02x\x00\x00\x00\x00\x00!\x00", nil, 8, ""},
		"neither entry nor end":    {cprHead + "\x02", nil, 8, ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s, err := stream.ParseCPRState([]byte(test.in))
			var format *stream.FormatError
			if test.bad >= 0 {
				if !errors.As(err, &format) || format.Offset != test.bad {
					t.Errorf("error %v, want one at %d", err, test.bad)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, s.Descriptors()); diff != "" {
				t.Error(diff)
			}
			if string(s.Bytes()) != test.in {
				t.Errorf("bytes %q", s.Bytes())
			}
			old, err := s.Before101()
			if string(old) != test.old || (err != nil) != (test.old == "") {
				t.Errorf("before 10.1: %q, %v", old, err)
			}
		})
	}
}

// FuzzCPRState: the reader ends, with descriptors whose bytes lie in the state one behind the other, or with an error that says where.
func FuzzCPRState(f *testing.F) {
	f.Add([]byte(cprHead + cprBIOS + cprROM + "\x00" + cprVFIO))
	f.Add([]byte(cprHead + "\x01\xff\xff\xff\xffx\x00\x00\x00\x00\x00 \x00"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		s, err := stream.ParseCPRState(raw)
		if err != nil {
			var format *stream.FormatError
			if !errors.As(err, &format) || format.Offset < 0 || format.Offset > len(raw) {
				t.Fatalf("error %v", err)
			}
			return
		}
		at := 7
		for _, d := range s.Descriptors() {
			if d.At <= at+len(d.Name) || d.At >= len(raw) || raw[d.At] != ' ' {
				t.Fatalf("descriptor %+v behind %d", d, at)
			}
			at = d.At
		}
		old, err := s.Before101()
		if err != nil {
			return
		}
		if again, err := stream.ParseCPRState(old); err != nil || len(again.Descriptors()) != len(s.Descriptors()) {
			t.Fatalf("for an older QEMU: %v", err)
		}
	})
}
