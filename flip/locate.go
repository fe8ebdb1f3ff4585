package flip

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"

	"qlive/internal/proc"
	"qlive/internal/qmp"
)

// locate finds where the source has the RAM blocks whose addresses it did not tell: x-query-ramblock says them since QEMU 8.0.
//
// An older QEMU has them in its heap. A RAMBlock (include/exec/ramblock.h, the same from 4.0 to 7.2) holds in this order host,
// colo_cache, offset, used_length, max_length, resized, flags, and a name of 256 bytes. Name and the three lengths, which
// x-query-ramblock does tell, identify it: exactly one place may match, and its host must be the start of
// private memory of the block's size, or nothing is believed.
func locate(memory *os.File, maps []proc.Mapping, blocks []qmp.RAMBlock) error {
	var heap []byte
	for i := range blocks {
		b := &blocks[i]
		if b.Host {
			continue
		}
		if heap == nil {
			var err error
			if heap, err = readHeap(memory, maps); err != nil {
				return err
			}
		}
		host, err := findBlock(heap, *b)
		if err != nil {
			return err
		}
		if !covered(maps, host, host+b.Used) {
			return fmt.Errorf("cannot find RAM block %s in the source: there is no memory of its size at %#x", b.Name, host)
		}
		b.HVA, b.Host = host, true
	}
	return nil
}

const (
	hostBefore = 16 // host lies so many bytes before offset, used_length, max_length
	nameAfter  = 36 // the name begins so many bytes after the beginning of offset
)

func findBlock(heap []byte, b qmp.RAMBlock) (uint64, error) {
	var key [24]byte
	for i, v := range []uint64{b.Offset, b.Used, b.Total} {
		binary.LittleEndian.PutUint64(key[8*i:], v)
	}
	name := append([]byte(b.Name), 0)
	var hosts []uint64
	for at := 0; ; at++ {
		next := bytes.Index(heap[at:], key[:])
		if next < 0 {
			break
		}
		at += next
		if at >= hostBefore && at+nameAfter <= len(heap) && bytes.HasPrefix(heap[at+nameAfter:], name) {
			hosts = append(hosts, binary.LittleEndian.Uint64(heap[at-hostBefore:]))
		}
	}
	if len(hosts) != 1 {
		return 0, fmt.Errorf("cannot find RAM block %s in the source: %d places in its heap look like it", b.Name, len(hosts))
	}
	return hosts[0], nil
}

// readHeap reads the heap of the main thread, where QEMU makes its machine.
func readHeap(memory *os.File, maps []proc.Mapping) ([]byte, error) {
	for _, m := range maps {
		if m.Path != "[heap]" {
			continue
		}
		heap := make([]byte, m.Len())
		if _, err := memory.ReadAt(heap, int64(m.Start)); err != nil {
			return nil, fmt.Errorf("cannot read the source's heap: %w", err)
		}
		return heap, nil
	}
	return nil, fmt.Errorf("cannot read the source's heap: it has none")
}

// covered tells whether private memory that can be read lies in all of the range.
func covered(maps []proc.Mapping, start, end uint64) bool {
	for _, m := range maps { // by rising address
		if m.Start <= start && start < m.End && m.Read && !m.Shared {
			start = m.End
		}
	}
	return start >= end
}
