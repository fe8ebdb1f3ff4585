package stream_test

import (
	"bytes"
	"compress/gzip"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"qlive/vmstate/stream"
)

var update = flag.Bool("update", false, "write the golden files")

// captured reads a capture of a real QEMU; the tests in integration/stream make them.
func captured(t testing.TB, name string) []byte {
	t.Helper()
	packed, err := os.ReadFile(filepath.Join("testdata", "captures", name+".gz"))
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func versions() []string { return []string{"7.2.22", "10.0.2", "10.0.13", "11.1.3"} }

func mustParse(t testing.TB, raw []byte) *stream.Stream {
	t.Helper()
	s, err := stream.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// What real QEMUs wrote is read as the golden files say.
func TestCaptures(t *testing.T) {
	for _, version := range versions() {
		for _, kind := range []string{"devices", "migration"} {
			name := version + "." + kind
			t.Run(name, func(t *testing.T) {
				got := render(mustParse(t, captured(t, name)))
				path := filepath.Join("testdata", name+".golden")
				if *update {
					if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
						t.Fatal(err)
					}
				}
				want, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(string(want), got); diff != "" {
					t.Error(diff)
				}
			})
		}
	}
}

// render is a stream in words.
func render(s *stream.Stream) string {
	var b strings.Builder
	if c := s.Configuration; c != nil {
		fmt.Fprintf(&b, "configuration %s %v\n", c.Machine, c.Capabilities)
	}
	for _, section := range s.Sections {
		fmt.Fprintf(&b, "%d %s, version %d, %d bytes at %d\n", section.Offset, section, section.Version, section.Payload.Len(), section.Payload.Start)
	}
	for _, block := range s.Blocks {
		fmt.Fprintf(&b, "block %s of %d bytes at 0x%x: %d pages, %d of zeros, %d other\n", block.Name, block.Used, block.Addr, block.Pages, block.Zero, block.Other)
	}
	state, _ := s.RunState()
	fmt.Fprintf(&b, "run state %q, description of %d bytes\n", state, len(s.Description))
	return b.String()
}

// Both ways of saving a guest give the same devices with states of the same length.
func TestDevicesOfBothKinds(t *testing.T) {
	for _, version := range versions() {
		t.Run(version, func(t *testing.T) {
			saved, err := stream.Devices(captured(t, version+".devices"))
			if err != nil {
				t.Fatal(err)
			}
			migrated := mustParse(t, captured(t, version+".migration")).Devices()
			type device struct {
				stream.Identity
				ID     uint32
				Length int
			}
			list := func(sections []stream.Section) (devices []device) {
				for _, s := range sections {
					devices = append(devices, device{s.Identity, s.ID, s.Payload.Len()})
				}
				return devices
			}
			if diff := cmp.Diff(list(migrated), list(saved)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// A stream that has lost its end is never taken for a whole one, wherever it was cut.
func TestCutOff(t *testing.T) {
	for _, name := range []string{"7.2.22.devices", "11.1.3.migration"} {
		raw := captured(t, name)
		whole := mustParse(t, raw)
		bare := len(raw)
		if whole.Description != nil {
			bare = len(raw) - len(whole.Description) - 5 // without a description the stream is whole as well
		}
		for n := 0; n < len(raw); n += 1 + n/200 {
			if _, err := stream.Parse(raw[:n]); err == nil && n != bare {
				t.Fatalf("%s cut off at %d of %d bytes is read without error", name, n, len(raw))
			}
		}
	}
}

// The composer writes what QEMU writes, but for the section's id and the return path.
func TestComposerWritesAsQEMU(t *testing.T) {
	for _, version := range versions() {
		t.Run(version, func(t *testing.T) {
			raw := captured(t, version+".migration")
			s := mustParse(t, raw)
			var blocks []stream.Block
			for _, b := range s.Blocks {
				b.Shared = b.Pages+b.Zero == 0
				blocks = append(blocks, b.Block)
			}
			var out bytes.Buffer
			c, err := stream.NewComposer(&out, stream.Config{Machine: s.Configuration.Machine, IgnoreShared: true})
			if err != nil {
				t.Fatal(err)
			}
			if err := c.Begin(blocks); err != nil {
				t.Fatal(err)
			}
			for page := range s.Pages() {
				if page.Data == nil {
					page.Data = make([]byte, stream.PageBytes)
				}
				if err := c.Pages(page.Block, page.Offset, page.Data); err != nil {
					t.Fatal(err)
				}
			}
			if err := c.Finish(captured(t, version+".devices"), stream.Finish{}); err != nil {
				t.Fatal(err)
			}
			composed := mustParse(t, out.Bytes())
			start, part := s.Sections[0], s.Sections[1]
			gotStart, gotPart := composed.Sections[1], composed.Sections[2]
			if !bytes.Equal(raw[:start.Offset], out.Bytes()[:start.Offset]) {
				t.Errorf("header differs\n got %x\nwant %x", out.Bytes()[:start.Offset], raw[:start.Offset])
			}
			if !bytes.Equal(s.Payload(start), composed.Payload(gotStart)) {
				t.Errorf("START differs\n got %x\nwant %x", composed.Payload(gotStart), s.Payload(start))
			}
			if !bytes.Equal(s.Payload(part), composed.Payload(gotPart)) {
				t.Errorf("PART of %d bytes differs from that of %d", len(composed.Payload(gotPart)), len(s.Payload(part)))
			}
		})
	}
}
