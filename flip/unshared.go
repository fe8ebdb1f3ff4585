package flip

import (
	"bytes"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"qlive/internal/hostram"
	"qlive/internal/proc"
	"qlive/internal/qmp"
	"qlive/vmstate/stream"
)

// targetPage is the unit of the migration stream's RAM section, in bytes.
const targetPage = stream.PageBytes

// readChunk bounds what is read from the source at once.
const readChunk = 256 << 10

// mirror holds what the target has been sent of the RAM blocks that the two QEMUs do not share: firmware, option ROMs, video
// memory, ACPI tables, flash.
type mirror struct {
	pid    int
	memory *os.File // the source's
	tables *proc.Pagemap
	maps   []proc.Mapping
	blocks []*unshared
	buf    []byte
}

// unshared is one of these blocks.
type unshared struct {
	name string
	addr uint64               // in the source's address space
	used uint64               // bytes
	anon bool                 // anonymous memory: a page that has not been touched is zero
	sent map[uint64]*sentPage // by offset: the pages that are not zero, as the target has them
	pass int
}

// sentPage is a page that the target has, and the pass in which the source was last seen to have it.
type sentPage struct {
	data []byte
	pass int
}

func newMirror(pid int) (*mirror, error) {
	maps, err := proc.ReadMaps(pid)
	if err != nil {
		return nil, err
	}
	tables, err := proc.OpenPagemap(pid)
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", pid), os.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		tables.Close()
		return nil, fmt.Errorf("cannot read the source's memory: %w", err)
	}
	return &mirror{pid: pid, memory: f, tables: tables, maps: maps, buf: make([]byte, readChunk)}, nil
}

func (m *mirror) close() {
	m.memory.Close()
	m.tables.Close()
}

// cover lets the mirror hold these blocks.
func (m *mirror) cover(blocks []qmp.RAMBlock) error {
	if err := hostram.Locate(m.memory, m.maps, blocks); err != nil {
		return err
	}
	for _, b := range blocks {
		if b.Used%targetPage != 0 {
			return fmt.Errorf("cannot send RAM block %s: its %d bytes are no whole pages", b.Name, b.Used)
		}
		m.blocks = append(m.blocks, &unshared{
			name: b.Name, addr: b.HVA, used: b.Used, anon: m.anonymous(b.HVA, b.HVA+b.Used), sent: make(map[uint64]*sentPage),
		})
	}
	return nil
}

// anonymous tells whether all of the range is memory without a file behind it.
func (m *mirror) anonymous(start, end uint64) bool {
	for _, v := range m.maps {
		if v.Start < end && v.End > start && v.Inode != 0 {
			return false
		}
	}
	return true
}

// send gives page what the target does not have yet: at first everything, afterwards what has changed. Of anonymous memory only
// pages that the source has touched are read, so that a large and unused video memory costs nothing.
func (m *mirror) send(page func(block string, offset uint64, data []byte) error) error {
	for _, u := range m.blocks {
		if err := m.sendBlock(u, page); err != nil {
			return err
		}
	}
	return nil
}

func (m *mirror) sendBlock(u *unshared, page func(string, uint64, []byte) error) error {
	if u.pass == 0 {
		if err := m.sendZeroes(u, page); err != nil {
			return err
		}
	}
	u.pass++
	if !u.anon {
		return m.compare(u, proc.Range{Start: u.addr, End: u.addr + u.used}, page)
	}
	var failed error
	if err := m.tables.Touched(proc.Range{Start: u.addr, End: u.addr + u.used}, func(r proc.Range) {
		if failed == nil {
			failed = m.compare(u, r, page)
		}
	}); err != nil {
		return fmt.Errorf("cannot see which pages of %s the source has touched: %w", u.name, err)
	}
	if failed != nil {
		return failed
	}
	for off, p := range u.sent {
		if p.pass != u.pass { // the source has given it back since: it is zero
			delete(u.sent, off)
			if err := page(u.name, off, make([]byte, targetPage)); err != nil {
				return err
			}
		}
	}
	return nil
}

// sendZeroes wipes what the target has in the block: it may have loaded something there as it started.
func (m *mirror) sendZeroes(u *unshared, page func(string, uint64, []byte) error) error {
	clear(m.buf)
	for off := uint64(0); off < u.used; off += uint64(len(m.buf)) {
		if err := page(u.name, off, m.buf[:min(uint64(len(m.buf)), u.used-off)]); err != nil {
			return err
		}
	}
	return nil
}

func (m *mirror) compare(u *unshared, r proc.Range, page func(string, uint64, []byte) error) error {
	for at := r.Start; at < r.End; {
		buf := m.buf[:min(uint64(len(m.buf)), r.End-at)]
		// The pid is the source's as long as that lives, and what is read of it counts only if it has saved its devices afterwards.
		if err := proc.ReadMemory(m.pid, at, buf); err != nil {
			return fmt.Errorf("cannot read %s from the source: %w", u.name, err)
		}
		for i := 0; i+targetPage <= len(buf); i += targetPage {
			if err := u.compare(at-u.addr+uint64(i), buf[i:i+targetPage], page); err != nil {
				return err
			}
		}
		at += uint64(len(buf))
	}
	return nil
}

func (u *unshared) compare(off uint64, now []byte, page func(string, uint64, []byte) error) error {
	was := u.sent[off]
	if was == nil {
		if allZero(now) {
			return nil
		}
		u.sent[off] = &sentPage{bytes.Clone(now), u.pass}
		return page(u.name, off, now)
	}
	was.pass = u.pass
	if bytes.Equal(now, was.data) {
		return nil
	}
	copy(was.data, now) // a page that has become zero stays here, as zeroes
	return page(u.name, off, now)
}

// allZero compares the page with itself, shifted by a word: as quick as comparing it with a page of zeroes, without having one.
func allZero(page []byte) bool {
	const word = 8
	return bytes.Equal(page[:word], make([]byte, word)) && bytes.Equal(page[word:], page[:len(page)-word])
}
