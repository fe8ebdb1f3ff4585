package hostram

import (
	"os"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"qlive/internal/proc"
	"qlive/internal/qmp"
	"qlive/vmstate"
)

func TestBackingOf(t *testing.T) {
	for _, tt := range []struct {
		name   string
		path   string
		shared bool
		fs     int64
		want   vmstate.Backing
	}{
		{"memfd", "/memfd:ram (deleted)", true, unix.TMPFS_MAGIC, vmstate.Memfd},
		{"memfd of huge pages", "/memfd:ram (deleted)", true, unix.HUGETLBFS_MAGIC, vmstate.Hugetlb},
		{"shared anonymous", "/dev/zero (deleted)", true, unix.TMPFS_MAGIC, vmstate.Anonymous},
		{"shared anonymous of huge pages", "/anon_hugepage (deleted)", true, unix.HUGETLBFS_MAGIC, vmstate.Hugetlb},
		{"hugetlbfs", "/dev/hugepages/vm1", true, unix.HUGETLBFS_MAGIC, vmstate.Hugetlbfs},
		{"tmpfs", "/dev/shm/vm1", true, unix.TMPFS_MAGIC, vmstate.File},
		{"disk", "/var/lib/vm1", true, unix.EXT4_SUPER_MAGIC, vmstate.File},
		{"share=off", "/dev/shm/vm1", false, unix.TMPFS_MAGIC, vmstate.PrivateFile},
		{"share=off of huge pages", "/dev/hugepages/vm1", false, unix.HUGETLBFS_MAGIC, vmstate.PrivateFile},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := backingOf(proc.Mapping{Path: tt.path, Shared: tt.shared, Inode: 1}, tt.fs); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

func TestBehind(t *testing.T) {
	b := qmp.RAMBlock{Name: "pc.ram", Used: 0x3000, Host: true, HVA: 0x11000}
	file := func(start, end, offset, inode uint64) proc.Mapping {
		return proc.Mapping{Start: start, End: end, Read: true, Write: true, Shared: true, Offset: offset, Inode: inode}
	}
	readOnly := file(0x12000, 0x14000, 0x1000, 7)
	readOnly.Write = false
	for _, tt := range []struct {
		name   string
		maps   []proc.Mapping
		found  bool
		whole  bool
		offset uint64
	}{
		{"one mapping", []proc.Mapping{file(0x11000, 0x14000, 0, 7)}, true, true, 0},
		{"inside a larger one", []proc.Mapping{file(0x10000, 0x20000, 0x5000, 7)}, true, true, 0x6000},
		{"two of one file", []proc.Mapping{file(0x11000, 0x12000, 0, 7), file(0x12000, 0x14000, 0x1000, 7)}, true, true, 0},
		{"anonymous", []proc.Mapping{file(0x11000, 0x14000, 0, 0)}, true, true, 0},
		{"two files", []proc.Mapping{file(0x11000, 0x12000, 0, 7), file(0x12000, 0x14000, 0x1000, 8)}, true, false, 0},
		{"another place in the file", []proc.Mapping{file(0x11000, 0x12000, 0, 7), file(0x12000, 0x14000, 0x9000, 7)}, true, false, 0},
		{"a gap", []proc.Mapping{file(0x11000, 0x12000, 0, 7), file(0x13000, 0x14000, 0x2000, 7)}, true, false, 0},
		{"part of it cannot be written", []proc.Mapping{file(0x11000, 0x12000, 0, 7), readOnly}, true, false, 0},
		{"too short", []proc.Mapping{file(0x11000, 0x13000, 0, 7)}, true, false, 0},
		{"elsewhere", []proc.Mapping{file(0x20000, 0x30000, 0, 7)}, false, false, 0},
		{"no mappings", nil, false, false, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m, first := behind(tt.maps, b)
			if (first != nil) != tt.found || m.Whole != tt.whole || m.Offset != tt.offset {
				t.Errorf("got %+v, first %v", m, first)
			}
		})
	}
}

// TestLook looks at memory of this process of each kind that needs nothing of the host.
func TestLook(t *testing.T) {
	const size = 1 << 20
	memfd, err := unix.MemfdCreate("hostram-test", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(memfd)
	named, err := os.Create(t.TempDir() + "/ram")
	if err != nil {
		t.Fatal(err)
	}
	defer named.Close()
	for _, fd := range []int{memfd, int(named.Fd())} {
		if err := unix.Ftruncate(fd, size); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		name  string
		fd    int
		flags int
		want  vmstate.Backing
	}{
		{"private", -1, unix.MAP_PRIVATE | unix.MAP_ANONYMOUS, vmstate.Private},
		{"shared anonymous", -1, unix.MAP_SHARED | unix.MAP_ANONYMOUS, vmstate.Anonymous},
		{"memfd", memfd, unix.MAP_SHARED, vmstate.Memfd},
		{"memfd, share=off", memfd, unix.MAP_PRIVATE, vmstate.PrivateFile},
		{"file", int(named.Fd()), unix.MAP_SHARED, vmstate.File},
		{"file, share=off", int(named.Fd()), unix.MAP_PRIVATE, vmstate.PrivateFile},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ram, err := unix.Mmap(tt.fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, tt.flags)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Munmap(ram)
			maps, err := proc.ReadMaps(os.Getpid())
			if err != nil {
				t.Fatal(err)
			}
			b := qmp.RAMBlock{Name: "ram", Used: size, Host: true, HVA: addressOf(ram)}
			m, err := Look(os.Getpid(), maps, b)
			if err != nil {
				t.Fatal(err)
			}
			if m.Backing != tt.want || !m.Whole || m.Backing != vmstate.Private && (m.FileBytes != size || m.Inode == 0) {
				t.Errorf("got %+v, want %s", m, tt.want)
			}
		})
	}
}

func addressOf(b []byte) uint64 { return uint64(uintptr(unsafe.Pointer(&b[0]))) }
