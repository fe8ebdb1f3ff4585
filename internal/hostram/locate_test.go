package hostram

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"qlive/internal/proc"
	"qlive/internal/qmp"
)

// heapBlock is a RAMBlock as QEMU 7.2 has it on its heap (include/exec/ramblock.h).
func heapBlock(b qmp.RAMBlock, host uint64) []byte {
	heap := make([]byte, 0, 512)
	for _, v := range []uint64{0x1111, 0x2222 /* mr */, host, 0 /* colo_cache */, b.Offset, b.Used, b.Total, 0x3333 /* resized */} {
		heap = binary.LittleEndian.AppendUint64(heap, v)
	}
	heap = append(heap, 0x40, 0, 0, 0) // flags
	heap = append(heap, b.Name...)
	return append(heap, make([]byte, 256-len(b.Name))...)
}

// heapAt is where the heap of these tests begins.
const heapAt = 0x5555_0000_0000

// memoryOf is a process's memory that has nothing but a heap.
type memoryOf []byte

// ReadAt fails as the kernel does where nothing is mapped.
func (m memoryOf) ReadAt(p []byte, at int64) (int, error) {
	n, err := bytes.NewReader(m).ReadAt(p, at-heapAt)
	if err != nil {
		err = unix.EIO
	}
	return n, err
}

func hostsOf(t interface{ Fatal(...any) }, heap []byte, b qmp.RAMBlock) []uint64 {
	hosts, err := findBlocks(memoryOf(heap), heapAt, heapAt+uint64(len(heap)), []qmp.RAMBlock{b})
	if err != nil {
		t.Fatal(err)
	}
	return hosts[0]
}

func TestFindBlocks(t *testing.T) {
	bios := qmp.RAMBlock{Name: "pc.bios", Offset: 0x10000000, Used: 0x40000, Total: 0x40000}
	at := func(change func(*qmp.RAMBlock)) []byte {
		b := bios
		change(&b)
		return heapBlock(b, 0x7f0000000000)
	}
	junk := bytes.Repeat([]byte{0xa5}, 1001) // so that nothing is aligned
	const host = 0x7f1234560000
	for _, tt := range []struct {
		name string
		heap []byte
		want []uint64
	}{
		{"alone", heapBlock(bios, host), []uint64{host}},
		{"among other things", slices.Concat(junk, heapBlock(bios, host), junk), []uint64{host}},
		{"others look alike", slices.Concat(
			at(func(b *qmp.RAMBlock) { b.Name = "pc.bios2" }), at(func(b *qmp.RAMBlock) { b.Name = "pc.bio" }),
			at(func(b *qmp.RAMBlock) { b.Offset += 0x1000 }), at(func(b *qmp.RAMBlock) { b.Used -= 0x1000 }), at(func(b *qmp.RAMBlock) { b.Total *= 2 }),
			heapBlock(bios, host)), []uint64{host}},
		{"not there", junk, nil},
		{"nothing", nil, nil},
		{"twice", slices.Concat(heapBlock(bios, host), heapBlock(bios, host+1)), []uint64{host, host + 1}},
		{"cut off before the host", heapBlock(bios, host)[24:], nil},
		{"cut off in the name", heapBlock(bios, host)[:72], nil},
		{"the numbers at the very end", heapBlock(bios, host)[:56], nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := hostsOf(t, tt.heap, bios); !slices.Equal(got, tt.want) {
				t.Errorf("got %#x, want %#x", got, tt.want)
			}
		})
	}
}

// Wherever in the heap a record lies, it is found once.
func TestFindBlocksAtTheEdges(t *testing.T) {
	b := qmp.RAMBlock{Name: "vga.vram", Offset: 1 << 28, Used: 1 << 24, Total: 1 << 24}
	record := heapBlock(b, 0x7f1234560000)
	heap := make([]byte, 2*heapChunk+4096)
	for before := -len(record) - 8; before <= 8; before++ {
		clear(heap)
		place := heapChunk + before
		copy(heap[place:], record)
		if got := hostsOf(t, heap, b); !slices.Equal(got, []uint64{0x7f1234560000}) {
			t.Fatalf("at %d from the edge: %#x", before, got)
		}
	}
}

func TestLocateRefuses(t *testing.T) {
	b := qmp.RAMBlock{Name: "pc.bios", Offset: 0x10000000, Used: 0x40000, Total: 0x40000}
	const host = 0x7f1234560000
	record := heapBlock(b, host)
	heapMap := func(heap []byte) proc.Mapping {
		return proc.Mapping{Start: heapAt, End: heapAt + uint64(len(heap)), Read: true, Write: true, Path: "[heap]"}
	}
	there := proc.Mapping{Start: host, End: host + 0x40000, Read: true, Write: true}
	for _, tt := range []struct {
		name string
		heap []byte
		maps []proc.Mapping
		says string // empty if it is found
	}{
		{"found", record, []proc.Mapping{heapMap(record), there}, ""},
		{"the heap in two pieces", slices.Concat(make([]byte, 4096-100), record), []proc.Mapping{
			{Start: heapAt, End: heapAt + 4096, Read: true, Path: "[heap]"}, {Start: heapAt + 4096, End: heapAt + 4096 + uint64(len(record)), Read: true, Path: "[heap]"}, there}, ""},
		{"no heap", record, []proc.Mapping{there}, "heap"},
		{"two candidates", slices.Concat(record, record), []proc.Mapping{heapMap(slices.Concat(record, record)), there}, "2 places"},
		{"no memory there", record, []proc.Mapping{heapMap(record)}, "no memory of its size"},
		{"the heap has shrunk behind it", record, []proc.Mapping{heapMap(make([]byte, len(record)+5000)), there}, ""},
		{"the heap has shrunk by whole pieces", record, []proc.Mapping{heapMap(make([]byte, len(record)+3*heapChunk)), there}, ""},
		{"the heap has shrunk before it", record[:40], []proc.Mapping{heapMap(record), there}, "0 places"},
		{"the heap is gone", nil, []proc.Mapping{heapMap(record), there}, "input/output error"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			blocks := []qmp.RAMBlock{b}
			err := Locate(memoryOf(tt.heap), tt.maps, blocks)
			if tt.says == "" && (err != nil || !blocks[0].Host || blocks[0].HVA != host) || tt.says != "" && (err == nil || !strings.Contains(err.Error(), tt.says) || blocks[0].Host) {
				t.Errorf("got %v, %+v", err, blocks[0])
			}
		})
	}
	known := []qmp.RAMBlock{{Name: "pc.bios", Host: true, HVA: 5}}
	if err := Locate(nil, nil, known); err != nil || known[0].HVA != 5 {
		t.Errorf("what QEMU has told is looked for: %v, %+v", err, known)
	}
}

func FuzzFindBlocks(f *testing.F) {
	b := qmp.RAMBlock{Name: "pc.bios", Offset: 0x10000000, Used: 0x40000, Total: 0x40000}
	f.Add(heapBlock(b, 0x7f0000000000), "pc.bios", b.Offset, b.Used, b.Total)
	f.Add([]byte{}, "", uint64(0), uint64(0), uint64(0))
	f.Add(make([]byte, 100), "", uint64(0), uint64(0), uint64(0))
	f.Fuzz(func(t *testing.T, heap []byte, name string, offset, used, total uint64) {
		hostsOf(t, heap, qmp.RAMBlock{Name: name, Offset: offset, Used: used, Total: total}) // it must not panic
	})
}

func TestCovered(t *testing.T) {
	private := func(start, end uint64) proc.Mapping {
		return proc.Mapping{Start: start, End: end, Read: true, Write: true}
	}
	shared := private(0x4000, 0x5000)
	shared.Shared = true
	hidden := private(0x4000, 0x5000)
	hidden.Read = false
	for _, tt := range []struct {
		name       string
		maps       []proc.Mapping
		start, end uint64
		want       bool
	}{
		{"one mapping, exactly", []proc.Mapping{private(0x1000, 0x4000)}, 0x1000, 0x4000, true},
		{"the midst of one", []proc.Mapping{private(0x1000, 0x4000)}, 0x2000, 0x3000, true},
		{"two that touch", []proc.Mapping{private(0x1000, 0x3000), private(0x3000, 0x4000)}, 0x1000, 0x4000, true},
		{"a gap", []proc.Mapping{private(0x1000, 0x2000), private(0x3000, 0x4000)}, 0x1000, 0x4000, false},
		{"begins before", []proc.Mapping{private(0x2000, 0x4000)}, 0x1000, 0x4000, false},
		{"ends behind", []proc.Mapping{private(0x1000, 0x3000)}, 0x1000, 0x4000, false},
		{"private, then shared", []proc.Mapping{private(0x1000, 0x4000), shared}, 0x1000, 0x5000, false},
		{"shared", []proc.Mapping{shared}, 0x4000, 0x5000, true},
		{"cannot be read", []proc.Mapping{private(0x1000, 0x4000), hidden}, 0x1000, 0x5000, false},
		{"no mapping", nil, 0x1000, 0x2000, false},
		{"address zero", []proc.Mapping{private(0x1000, 0x4000)}, 0, 0x1000, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := covered(tt.maps, tt.start, tt.end); got != tt.want {
				t.Errorf("got %v", got)
			}
		})
	}
}

// covered agrees with looking at each page by itself.
func TestCoveredByPages(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var maps []proc.Mapping
		private, common := map[uint64]bool{}, map[uint64]bool{}
		for at := uint64(1); at < 12; {
			m := proc.Mapping{
				Start: at + rapid.Uint64Range(0, 2).Draw(t, "gap"), Read: rapid.IntRange(0, 4).Draw(t, "read") > 0, Shared: rapid.IntRange(0, 4).Draw(t, "shared") == 0,
			}
			m.End = m.Start + rapid.Uint64Range(1, 4).Draw(t, "pages")
			for p := m.Start; p < m.End; p++ {
				private[p], common[p] = m.Read && !m.Shared, m.Read && m.Shared
			}
			maps, at = append(maps, m), m.End
		}
		start := rapid.Uint64Range(0, 14).Draw(t, "start")
		end := start + rapid.Uint64Range(1, 10).Draw(t, "length")
		allPrivate, allShared := true, true
		for p := start; p < end; p++ {
			allPrivate, allShared = allPrivate && private[p], allShared && common[p]
		}
		want := allPrivate || allShared
		if got := covered(maps, start, end); got != want {
			t.Errorf("covered(%v, %d, %d) is %v", maps, start, end, got)
		}
	})
}
