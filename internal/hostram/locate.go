package hostram

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"

	"golang.org/x/sys/unix"

	"qlive/internal/proc"
	"qlive/internal/qmp"
)

// Locate finds where a QEMU has the RAM blocks whose addresses it did not tell: x-query-ramblock says them since QEMU 8.0.
//
// An older QEMU has them in its heap. A RAMBlock (include/exec/ramblock.h, the same from 4.0 to 7.2) holds in this order host,
// colo_cache, offset, used_length, max_length, resized, flags, and a name of 256 bytes. Name and the three lengths, which
// x-query-ramblock does tell, identify it: exactly one place may match, and its host must be the start of
// memory of the block's size, all private or all shared, or nothing is believed. A block without an address is marked by Host being false.
func Locate(memory io.ReaderAt, maps []proc.Mapping, blocks []qmp.RAMBlock) error {
	if !slices.ContainsFunc(blocks, func(b qmp.RAMBlock) bool { return !b.Host }) {
		return nil
	}
	pieces := heap(maps)
	if len(pieces) == 0 {
		return errors.New("cannot read QEMU's heap: it has none")
	}
	hosts := make([][]uint64, len(blocks))
	for _, piece := range pieces {
		found, err := findBlocks(memory, piece.Start, piece.End, blocks)
		if err != nil {
			return err
		}
		for i := range hosts {
			hosts[i] = append(hosts[i], found[i]...)
		}
	}
	for i := range blocks {
		b := &blocks[i]
		if b.Host {
			continue
		}
		if len(hosts[i]) != 1 {
			return fmt.Errorf("cannot find RAM block %s in QEMU's memory: %d places in its heap look like it", b.Name, len(hosts[i]))
		}
		host := hosts[i][0]
		if !covered(maps, host, host+b.Used) {
			return fmt.Errorf("cannot find RAM block %s in QEMU's memory: there is no memory of its size at %#x", b.Name, host)
		}
		b.HVA, b.Host = host, true
	}
	return nil
}

// heap is the heap of the main thread, where QEMU makes its machine. It is in pieces where QEMU has forked (-daemonize): what it was given before
// and after is not one mapping to the kernel. Pieces that touch are one for whoever reads them.
func heap(maps []proc.Mapping) []proc.Range {
	var pieces []proc.Range
	for _, m := range maps { // by rising address
		if m.Path != "[heap]" {
			continue
		}
		if n := len(pieces); n > 0 && pieces[n-1].End == m.Start {
			pieces[n-1].End = m.End
		} else {
			pieces = append(pieces, proc.Range{Start: m.Start, End: m.End})
		}
	}
	return pieces
}

const (
	hostBefore = 16      // host lies so many bytes before offset, used_length, max_length
	nameAfter  = 36      // the name begins so many bytes after the beginning of offset
	nameBytes  = 256     // its room
	heapChunk  = 1 << 20 // that is looked through at once: a heap may be large, and reading it whole would be the daemon's largest want of memory
)

// findBlocks looks between two addresses for what may be the records of blocks, and gives what each of them says of where the block is.
func findBlocks(memory io.ReaderAt, start, end uint64, blocks []qmp.RAMBlock) ([][]uint64, error) {
	hosts := make([][]uint64, len(blocks))
	buf := make([]byte, hostBefore+heapChunk+nameAfter+nameBytes)
	for at := start; at < end; at += heapChunk {
		from := max(start, at-min(at, hostBefore))
		chunk := buf[:min(uint64(len(buf)), end-from)]
		n, err := memory.ReadAt(chunk, int64(from))
		switch {
		case errors.Is(err, unix.EIO) && (from > start || n > 0): // QEMU has freed memory, and the heap ends here now
			chunk, end = chunk[:n], from+uint64(n)
		case err != nil:
			return nil, fmt.Errorf("cannot read QEMU's heap: %w", err)
		}
		// A record belongs to the chunk that its offset member begins in.
		first, behind := int(at-from), int(at-from)+heapChunk
		for i, b := range blocks {
			hosts[i] = append(hosts[i], hostsIn(chunk, first, behind, b)...)
		}
	}
	return hosts, nil
}

// hostsIn are the hosts of the records of b whose offset member begins in the chunk from first on and before behind.
func hostsIn(chunk []byte, first, behind int, b qmp.RAMBlock) (hosts []uint64) {
	var key [24]byte
	for i, v := range []uint64{b.Offset, b.Used, b.Total} {
		binary.LittleEndian.PutUint64(key[8*i:], v)
	}
	name := append([]byte(b.Name), 0)
	for at := first; at < behind && at <= len(chunk); at++ {
		next := bytes.Index(chunk[at:min(len(chunk), behind+len(key)-1)], key[:])
		if next < 0 {
			break
		}
		at += next
		if at >= hostBefore && at+nameAfter <= len(chunk) && bytes.HasPrefix(chunk[at+nameAfter:], name) {
			hosts = append(hosts, binary.LittleEndian.Uint64(chunk[at-hostBefore:]))
		}
	}
	return hosts
}

// covered tells whether memory that can be read lies in all of the range, all of it private or all of it shared.
func covered(maps []proc.Mapping, start, end uint64) bool {
	return coveredBy(maps, start, end, false) || coveredBy(maps, start, end, true)
}

func coveredBy(maps []proc.Mapping, start, end uint64, shared bool) bool {
	for _, m := range maps { // by rising address
		if m.Start <= start && start < m.End && m.Read && m.Shared == shared {
			start = m.End
		}
	}
	return start >= end
}
