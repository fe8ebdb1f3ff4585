package hostram

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"qlive/internal/proc"
	"qlive/internal/qmp"
	"qlive/vmstate"
)

// Memory is what lies behind a RAM block on the host.
type Memory struct {
	Backing vmstate.Backing
	Path    string // of the file as /proc/PID/maps writes it; empty for anonymous memory
	Inode   uint64 // of the file; 0 for none
	Dev     uint64 // as stat(2) gives it
	Offset  uint64 // where in the file the block begins, bytes
	// Whole: one mapping, or several that follow each other in one file, writable, cover all of the block.
	Whole bool
	// FileBytes is the file's size; 0 for none.
	FileBytes uint64
	// HVA is where the process has it.
	HVA uint64
}

// Blocks lists a QEMU's RAM blocks with the addresses that it has them at, also of a QEMU that does not tell them (before 8.0).
func Blocks(ctx context.Context, monitor *qmp.Client, pid int) ([]qmp.RAMBlock, []proc.Mapping, error) {
	blocks, err := monitor.QueryRAMBlocks(ctx)
	if err != nil {
		return nil, nil, err
	}
	maps, err := proc.ReadMaps(pid)
	if err != nil {
		return nil, nil, err
	}
	heap, err := os.OpenFile("/proc/"+strconv.Itoa(pid)+"/mem", os.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot read the memory of process %d: %w", pid, err)
	}
	defer heap.Close()
	return blocks, maps, Locate(heap, maps, blocks)
}

// Look finds out what lies behind a block of process pid, whose address is known.
func Look(pid int, maps []proc.Mapping, b qmp.RAMBlock) (Memory, error) {
	m, first := behind(maps, b)
	if first == nil {
		return Memory{}, fmt.Errorf("cannot find RAM block %s in the mappings of process %d: nothing is mapped at %#x", b.Name, pid, b.HVA)
	}
	if first.Inode == 0 {
		return m, nil
	}
	link := MapFile(pid, *first)
	var fs unix.Statfs_t
	var st unix.Stat_t
	for _, err := range []error{unix.Statfs(link, &fs), unix.Stat(link, &st)} {
		if err != nil {
			return Memory{}, fmt.Errorf("cannot look at the file behind RAM block %s of process %d: %w", b.Name, pid, err)
		}
	}
	m.Backing = backingOf(*first, fs.Type)
	m.Dev, m.FileBytes = st.Dev, uint64(st.Size)
	return m, nil
}

// MapFile is the path by which the file behind a mapping can be opened, whatever has become of its name (proc(5), map_files).
func MapFile(pid int, m proc.Mapping) string {
	return fmt.Sprintf("/proc/%d/map_files/%x-%x", pid, m.Start, m.End)
}

// behind joins the mappings of a block; the first of them is nil if nothing is mapped where it begins.
func behind(maps []proc.Mapping, b qmp.RAMBlock) (Memory, *proc.Mapping) {
	var first *proc.Mapping
	at, end := b.HVA, b.HVA+b.Used
	for i := range maps { // by rising address
		m := &maps[i]
		if at < m.Start || at >= m.End || at >= end {
			continue
		}
		switch {
		case first == nil:
			first = m
		case m.Shared != first.Shared, m.Inode != first.Inode, m.DevMajor != first.DevMajor, m.DevMinor != first.DevMinor,
			m.Inode != 0 && m.Offset != first.Offset+m.Start-first.Start:
			return described(first, b, false), first
		}
		if !m.Read || !m.Write {
			return described(first, b, false), first
		}
		at = m.End
	}
	if first == nil {
		return Memory{}, nil
	}
	return described(first, b, at >= end), first
}

func described(first *proc.Mapping, b qmp.RAMBlock, whole bool) Memory {
	m := Memory{Backing: vmstate.Private, Inode: first.Inode, Path: first.Path, Whole: whole, HVA: b.HVA}
	if first.Inode != 0 {
		m.Offset = first.Offset + b.HVA - first.Start
	}
	return m
}

// backingOf names what a mapping of a file on a file system of this type is (the magic numbers are those of statfs(2)).
func backingOf(m proc.Mapping, fsType int64) vmstate.Backing {
	memfd := strings.HasPrefix(m.Path, "/memfd:")
	huge := fsType == unix.HUGETLBFS_MAGIC
	switch {
	case !m.Shared:
		return vmstate.PrivateFile
	case huge && (memfd || strings.HasPrefix(m.Path, "/anon_hugepage")):
		return vmstate.Hugetlb
	case huge:
		return vmstate.Hugetlbfs
	case memfd:
		return vmstate.Memfd
	case m.Path == "/dev/zero (deleted)": // what MAP_SHARED|MAP_ANONYMOUS is (mm/shmem.c)
		return vmstate.Anonymous
	}
	return vmstate.File
}
