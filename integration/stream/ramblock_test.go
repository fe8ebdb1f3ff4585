package stream_test

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
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
	var text struct {
		Text string `json:"human-readable-text"`
	}
	q.do("x-query-ramblock", nil, &text)
	var blocks []block
	lines := bufio.NewScanner(strings.NewReader(text.Text))
	lines.Scan()
	for lines.Scan() {
		var b block
		name, rest, found := strings.Cut(strings.TrimSpace(lines.Text()), " KiB  ")
		if !found {
			t.Fatalf("x-query-ramblock says %q", lines.Text())
		}
		b.Name, _, _ = strings.Cut(name, " ")
		n, _ := fmt.Sscan(rest, &b.offset, &b.Used, &b.max, &b.host)
		if n < 3 {
			t.Fatalf("x-query-ramblock says %q", lines.Text())
		}
		for _, id := range shared {
			if b.Name == id {
				b.Shared = true
				q.do("qom-get", map[string]any{"path": "/objects/" + id + "/" + id + "[0]", "property": "addr"}, &b.Addr)
			}
		}
		blocks = append(blocks, b)
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
