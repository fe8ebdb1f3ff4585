package memory

import (
	"errors"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// linux is the kernel itself.
type linux struct{}

func (linux) memfd(name string, flags int) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, flags)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	return os.NewFile(uintptr(fd), "/memfd:"+name), nil
}

func (linux) create(folder *os.Root, name string) (*os.File, error) {
	return folder.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
}

func (linux) truncate(file *os.File, size int64) error { return file.Truncate(size) }

func (linux) seal(file *os.File, seals int) error {
	_, err := unix.FcntlInt(file.Fd(), unix.F_ADD_SEALS, seals)
	return os.NewSyscallError("fcntl F_ADD_SEALS", err)
}

// touch aligns the mapping to 2 MiB and asks for huge pages before the first page appears: ordinary RAM that is
// allocated in any other order gets no transparent huge page, even where the host allows them.
func (linux) touch(file *os.File, size uint64, populate bool) error {
	length := uintptr(size)
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(file.Fd()), &st); err != nil {
		return os.NewSyscallError("fstatfs", err)
	}
	if st.Type == unix.HUGETLBFS_MAGIC { // the kernel aligns it by itself, and refuses advice
		return mapped(file, nil, length, func(at unsafe.Pointer) error {
			if !populate {
				return nil
			}
			return advise(at, length, unix.MADV_POPULATE_WRITE)
		})
	}
	return aligned(length, func(room unsafe.Pointer) error {
		return mapped(file, room, length, func(at unsafe.Pointer) error {
			if err := advise(at, length, unix.MADV_HUGEPAGE); err != nil && !errors.Is(err, unix.EINVAL) {
				return err // EINVAL: a kernel built without them
			}
			if !populate {
				return nil
			}
			return advise(at, length, unix.MADV_POPULATE_WRITE)
		})
	})
}

// aligned lends do address space of length bytes that starts at a multiple of 2 MiB.
func aligned(length uintptr, do func(unsafe.Pointer) error) error {
	room, err := unix.MmapPtr(-1, 0, nil, length+thpBytes, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return os.NewSyscallError("mmap", err)
	}
	err = do(unsafe.Add(room, (thpBytes-uintptr(room)%thpBytes)%thpBytes))
	return errors.Join(err, os.NewSyscallError("munmap", unix.MunmapPtr(room, length+thpBytes)))
}

// mapped lends do the file mapped shared at where, or anywhere.
func mapped(file *os.File, where unsafe.Pointer, length uintptr, do func(unsafe.Pointer) error) error {
	flags := unix.MAP_SHARED
	if where != nil {
		flags |= unix.MAP_FIXED
	}
	at, err := unix.MmapPtr(int(file.Fd()), 0, where, length, unix.PROT_READ|unix.PROT_WRITE, flags)
	if err != nil {
		return os.NewSyscallError("mmap", err)
	}
	err = do(at)
	return errors.Join(err, os.NewSyscallError("munmap", unix.MunmapPtr(at, length)))
}

func advise(at unsafe.Pointer, length uintptr, advice int) error {
	for {
		err := unix.Madvise(unsafe.Slice((*byte)(at), length), advice)
		if !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EAGAIN) {
			return os.NewSyscallError("madvise", err)
		}
	}
}
