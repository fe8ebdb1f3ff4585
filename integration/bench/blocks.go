package bench

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"qlive/internal/proc"
	"qlive/vmstate/stream"
)

// block is a RAM block that two QEMUs do not share, and what was last seen in it.
type block struct {
	stream.Block
	host uint64 // where it lies in its QEMU's memory
	data []byte
}

// blocksOf lists a QEMU's RAM blocks: the table as a migration would send it, and those that are not shared. shared is
// the id of the memory backend that holds the guest's RAM.
func blocksOf(m *monitor, pid int, shared string) (table []stream.Block, private []*block, err error) {
	var text struct {
		Text string `json:"human-readable-text"`
	}
	if err := m.do(`{"execute":"x-query-ramblock"}`, &text); err != nil {
		return nil, nil, err
	}
	var heap []byte
	lines := strings.Split(strings.TrimSpace(text.Text), "\n")
	for _, line := range lines[1:] { // the first is the heading
		var b block
		var unit string
		var page, offset, total uint64
		// The host's address is there since QEMU 8.0.
		if n, err := fmt.Sscan(line, &b.Name, &page, &unit, &offset, &b.Used, &total, &b.host); n < 6 {
			return nil, nil, fmt.Errorf("cannot read RAM block %q: %w", line, err)
		}
		if b.Name == shared {
			b.Shared = true
			cmd := fmt.Sprintf(`{"execute":"qom-get","arguments":{"path":"/objects/%s/%s[0]","property":"addr"}}`, shared, shared)
			if err := m.do(cmd, &b.Addr); err != nil {
				return nil, nil, err
			}
		} else {
			if b.host == 0 {
				if heap == nil {
					if heap, err = readHeap(pid); err != nil {
						return nil, nil, err
					}
				}
				if b.host = findHost(heap, b.Name, offset, b.Used, total); b.host == 0 {
					return nil, nil, fmt.Errorf("cannot find RAM block %s in the heap of QEMU with pid %d", b.Name, pid)
				}
			}
			b.data = make([]byte, b.Used)
			private = append(private, &b)
		}
		table = append(table, b.Block)
	}
	return table, private, nil
}

// findHost looks for a RAMBlock in the heap of a QEMU before 8.0: it holds host, colo_cache, offset, used_length,
// max_length, resized, flags and a name, in this order.
func findHost(heap []byte, name string, offset, used, total uint64) uint64 {
	var key [24]byte
	for i, v := range []uint64{offset, used, total} {
		binary.LittleEndian.PutUint64(key[8*i:], v)
	}
	for at := 0; ; at++ {
		next := bytes.Index(heap[at:], key[:])
		if next < 0 {
			return 0
		}
		if at += next; at >= 16 && at+36 <= len(heap) && bytes.HasPrefix(heap[at+36:], append([]byte(name), 0)) {
			return binary.LittleEndian.Uint64(heap[at-16:])
		}
	}
}

func readHeap(pid int) ([]byte, error) {
	maps, err := proc.ReadMaps(pid)
	if err != nil {
		return nil, err
	}
	for _, m := range maps {
		if m.Path != "[heap]" {
			continue
		}
		heap := make([]byte, m.Len())
		n, err := readSome(pid, m.Start, heap)
		return heap[:n], err // less of it if it has just shrunk
	}
	return nil, fmt.Errorf("cannot find the heap of process %d", pid)
}

// readSome reads from another process, up to where its memory ends.
func readSome(pid int, at uint64, into []byte) (int, error) {
	local := []unix.Iovec{{Base: &into[0], Len: uint64(len(into))}}
	return unix.ProcessVMReadv(pid, local, []unix.RemoteIovec{{Base: uintptr(at), Len: len(into)}}, 0)
}

func readMemory(pid int, at uint64, into []byte) error {
	n, err := readSome(pid, at, into)
	if err == nil && n != len(into) {
		err = fmt.Errorf("only %d bytes", n)
	}
	if err != nil {
		return fmt.Errorf("cannot read %d bytes at %#x of process %d: %w", len(into), at, pid, err)
	}
	return nil
}

// read takes the block's content as it is now.
func (b *block) read(pid int) error { return readMemory(pid, b.host, b.data) }

// changes gives the pages that differ from what was last seen. buf must be as large as the block.
func (b *block) changes(pid int, buf []byte, page func(name string, offset uint64, data []byte) error) error {
	buf = buf[:len(b.data)]
	if err := readMemory(pid, b.host, buf); err != nil {
		return err
	}
	for off := 0; off < len(buf); off += stream.PageBytes {
		now := buf[off : off+stream.PageBytes]
		if bytes.Equal(now, b.data[off:off+stream.PageBytes]) {
			continue
		}
		if err := page(b.Name, uint64(off), now); err != nil {
			return err
		}
	}
	return nil
}

// restore writes what private held into the blocks of the same names of another QEMU: the bare device state leaves
// firmware behind, and the next handoffs of the same guest shall move as much as any.
func restore(m *monitor, pid int, shared string, private []*block) error {
	_, theirs, err := blocksOf(m, pid, shared)
	if err != nil {
		return err
	}
	memory, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", pid), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer memory.Close()
	for _, b := range private {
		for _, t := range theirs {
			if t.Name != b.Name {
				continue
			}
			if _, err := memory.WriteAt(b.data, int64(t.host)); err != nil {
				return fmt.Errorf("cannot restore %s: %w", b.Name, err)
			}
		}
	}
	return nil
}
