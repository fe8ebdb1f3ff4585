package stream_test

import (
	"bytes"
	"compress/gzip"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"qlive/integration/env"
	"qlive/vmstate/stream"
)

var update = flag.Bool("update", false, "write the captures that vmstate/stream is tested with")

// captures is where the unit tests of vmstate/stream have theirs.
const captures = "../../vmstate/stream/testdata/captures"

// A guest whose firmware is nothing but a halt keeps the captures small.
func TestCaptures(t *testing.T) {
	for _, version := range env.Versions() {
		t.Run(version, func(t *testing.T) {
			q := start(t, version, ram(t, 16<<20), "-bios", halt(t), "-m", "16",
				"-machine", "pc-q35-7.2,memory-backend=pc.ram", "-vga", "none", "-smp", "2",
				"-object", "memory-backend-file,id=pc.ram,size=16M,mem-path=/proc/self/fd/3,share=on")
			q.do("stop", nil, nil)
			devices := q.deviceState(t)
			q.do("cont", nil, nil)
			q.do("stop", nil, nil)
			capture(t, version+".devices", devices)
			capture(t, version+".migration", q.migrateToFile(t))
		})
	}
}

// capture writes a golden capture, or compares the shape of this one with it.
func capture(t *testing.T, name string, raw []byte) {
	t.Helper()
	path := filepath.Join(captures, name+".gz")
	if *update {
		var packed bytes.Buffer
		z, _ := gzip.NewWriterLevel(&packed, gzip.BestCompression)
		z.Write(raw)
		z.Close()
		if err := os.WriteFile(path, packed.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	packed, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	golden, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := shape(t, raw), shape(t, golden); !slices.Equal(got, want) {
		t.Errorf("%s is no longer what this QEMU writes\n got %s\nwant %s", name, got, want)
	}
}

// shape is the list of sections with their lengths.
func shape(t *testing.T, raw []byte) (lines []string) {
	t.Helper()
	s, err := stream.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	for _, section := range s.Sections {
		line := section.String()
		if section.Name != "ram" {
			line += fmt.Sprint(" ", section.Payload.Len())
		}
		lines = append(lines, line)
	}
	return lines
}

// halt is a firmware of one instruction.
func halt(t *testing.T) string {
	t.Helper()
	image := make([]byte, 64<<10)
	copy(image[len(image)-16:], []byte{0xfa, 0xf4, 0xeb, 0xfd}) // cli; hlt; jmp back
	path := filepath.Join(t.TempDir(), "halt.bin")
	if err := os.WriteFile(path, image, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// What QEMU itself writes is read whole, agrees with what it says over QMP, and has the device
// sections that xen-save-devices-state writes.
func TestRealStream(t *testing.T) {
	for _, version := range env.Versions() {
		t.Run(version, func(t *testing.T) {
			q := start(t, version, ram(t, ramBytes), "-vga", "std", "-device", "virtio-net-pci",
				"-machine", "q35", "-m", "64",
				"-object", "memory-backend-file,id=low,size=32M,mem-path=/proc/self/fd/3,share=on",
				"-object", "memory-backend-file,id=high,size=32M,mem-path=/proc/self/fd/3,share=on",
				"-numa", "node,memdev=low", "-numa", "node,memdev=high")
			seaBIOS(t, q, 1)
			q.do("stop", nil, nil)
			blocks := q.ramBlocks(t, "low", "high")
			devices, err := stream.Devices(q.deviceState(t))
			if err != nil {
				t.Fatal(err)
			}
			contents := q.contents(t, blocks)
			q.do("cont", nil, nil)
			q.do("stop", nil, nil)
			s, err := stream.Parse(q.migrateToFile(t))
			if err != nil {
				t.Fatal(err)
			}
			checkTable(t, s, blocks)
			checkDevices(t, s.Devices(), devices)
			checkFirmware(t, s, contents)
			if !s.Configuration.IgnoreShared() || s.Configuration.Machine != q.machine() || s.Configuration.PageBits != 0 {
				t.Errorf("configuration is %+v", *s.Configuration)
			}
			if state, _ := s.RunState(); state != "paused" {
				t.Errorf("the stream of a stopped guest says %q", state)
			}
		})
	}
}

// checkTable compares the stream's table with x-query-ramblock, and with the backends' addresses.
func checkTable(t *testing.T, s *stream.Stream, blocks []block) {
	t.Helper()
	if len(s.Blocks) != len(blocks) {
		t.Errorf("%d blocks in the stream, %d by x-query-ramblock", len(s.Blocks), len(blocks))
	}
	addrs := map[uint64]bool{}
	for _, b := range blocks {
		i := slices.IndexFunc(s.Blocks, func(in stream.BlockStats) bool { return in.Name == b.Name })
		if i < 0 {
			t.Errorf("the stream has no block %q", b.Name)
			continue
		}
		in := s.Blocks[i]
		if in.Used != b.Used {
			t.Errorf("block %q has %d bytes in the stream, %d by x-query-ramblock", b.Name, in.Used, b.Used)
		}
		pages := uint64(in.Pages+in.Zero) * stream.PageBytes
		if b.Shared {
			addrs[b.Addr] = true
			if in.Addr != b.Addr || pages != 0 {
				t.Errorf("shared block %q has address 0x%x and %d bytes in the stream; by QMP address 0x%x", b.Name, in.Addr, pages, b.Addr)
			}
		} else if pages < b.Used {
			t.Errorf("block %q has %d bytes, of which only %d are in the stream", b.Name, b.Used, pages)
		}
	}
	if len(addrs) != 2 {
		t.Errorf("the two shared blocks have addresses %v, which tells nothing", addrs)
	}
}

// checkDevices compares the device sections of `migrate` with those of xen-save-devices-state.
func checkDevices(t *testing.T, migrated, saved []stream.Section) {
	t.Helper()
	var a, b []string
	for _, s := range migrated {
		a = append(a, s.String())
	}
	for _, s := range saved {
		b = append(b, s.String())
	}
	if !slices.Equal(a, b) {
		t.Errorf("devices differ\nby migrate               %s\nby xen-save-devices-state %s", strings.Join(a, ", "), strings.Join(b, ", "))
	}
}

// checkFirmware compares the stream's pages with QEMU's memory for blocks that a guest cannot change.
func checkFirmware(t *testing.T, s *stream.Stream, contents map[string][]byte) {
	t.Helper()
	got := map[string][]byte{}
	for name, data := range contents {
		got[name] = bytes.Repeat([]byte{0xff}, len(data))
	}
	for page := range s.Pages() {
		at := got[page.Block][page.Offset : page.Offset+stream.PageBytes]
		if page.Data == nil {
			clear(at)
		} else {
			copy(at, page.Data)
		}
	}
	for _, name := range []string{"pc.bios", "0000:00:01.0/vga.rom", "/rom@etc/acpi/tables"} {
		if !bytes.Equal(got[name], contents[name]) {
			t.Errorf("block %q is not in the stream as it is in memory", name)
		}
	}
}
