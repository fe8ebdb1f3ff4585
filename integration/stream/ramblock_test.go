package stream_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"qlive/vmstate/stream"
)

// block is a RAM block as its QEMU knows it.
type block struct {
	stream.Block
	offset, max uint64
	host        uint64 // where it lies in QEMU's own memory
}

// ramBlocks asks for all blocks, the largest first. QEMU before 8.0 does not tell where they lie.
func (q *qemu) ramBlocks(t *testing.T, shared ...string) []block {
	t.Helper()
	list, err := q.QueryRAMBlocks(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var blocks []block
	for _, b := range list {
		mine := block{Block: stream.Block{Name: b.Name, Used: b.Used, Shared: slices.Contains(shared, b.Name)}, offset: b.Offset, max: b.Total, host: b.HVA}
		if mine.Shared {
			q.do("qom-get", map[string]any{"path": "/objects/" + b.Name + "/" + b.Name + "[0]", "property": "addr"}, &mine.Addr)
		}
		blocks = append(blocks, mine)
	}
	q.findHosts(t, blocks)
	return blocks
}

// findHosts looks in QEMU's heap for the addresses that it did not tell: a RAMBlock holds, among
// others, host, colo_cache, offset, used_length, max_length, resized, flags and a name of 256 bytes,
// in this order. Name and the three lengths identify it.
func (q *qemu) findHosts(t *testing.T, blocks []block) {
	t.Helper()
	var heap []byte
	for i := range blocks {
		b := &blocks[i]
		if b.host != 0 {
			continue
		}
		if heap == nil {
			heap = q.heap(t)
		}
		var want [24]byte
		for j, v := range []uint64{b.offset, b.Used, b.max} {
			binary.LittleEndian.PutUint64(want[8*j:], v)
		}
		name := append([]byte(b.Name), 0)
		for at := 0; b.host == 0; at++ {
			next := bytes.Index(heap[at:], want[:])
			if next < 0 {
				t.Fatalf("QEMU %s: RAM block %s not found in the heap", q.version, b.Name)
			}
			at += next
			if at >= 16 && bytes.HasPrefix(heap[at+24+8+4:], name) {
				b.host = binary.LittleEndian.Uint64(heap[at-16:])
			}
		}
	}
}

// heap reads the heap, which grows and shrinks while QEMU runs: what is gone by then is left out.
func (q *qemu) heap(t *testing.T) []byte {
	t.Helper()
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", q.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(maps)) {
		if !strings.HasSuffix(strings.TrimSpace(line), "[heap]") {
			continue
		}
		var from, to uint64
		if _, err := fmt.Sscanf(line, "%x-%x ", &from, &to); err != nil {
			t.Fatal(err)
		}
		heap := make([]byte, to-from)
		f := q.open(t)
		defer f.Close()
		n, _ := f.ReadAt(heap, int64(from))
		return heap[:n]
	}
	t.Fatal("QEMU has no heap")
	return nil
}

func (q *qemu) open(t *testing.T) *os.File {
	t.Helper()
	f, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", q.cmd.Process.Pid), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// memory reads from QEMU's own memory.
func (q *qemu) memory(t *testing.T, at, n uint64) []byte {
	t.Helper()
	f := q.open(t)
	defer f.Close()
	data := make([]byte, n)
	if _, err := f.ReadAt(data, int64(at)); err != nil {
		t.Fatalf("QEMU %s: cannot read %d bytes at 0x%x: %v", q.version, n, at, err)
	}
	return data
}

// contents reads every block that is not shared.
func (q *qemu) contents(t *testing.T, blocks []block) map[string][]byte {
	t.Helper()
	contents := map[string][]byte{}
	for _, b := range blocks {
		if !b.Shared {
			contents[b.Name] = q.memory(t, b.host, b.Used)
		}
	}
	return contents
}

// table is what of the blocks goes into a stream.
func table(blocks []block) []stream.Block {
	var list []stream.Block
	for _, b := range blocks {
		list = append(list, b.Block)
	}
	return list
}
