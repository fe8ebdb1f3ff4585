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

func (linux) touch(file *os.File, size uint64, populate bool) error {
	length := uintptr(size)
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(file.Fd()), &st); err != nil {
		return os.NewSyscallError("fstatfs", err)
	}
	if st.Type != unix.HUGETLBFS_MAGIC {
		return touchOrdinary(file, length, populate)
	}
	at, err := mmap(file, nil, length) // the kernel aligns it by itself, and it takes no advice
	if err != nil {
		return err
	}
	if populate {
		err = advise(at, length, unix.MADV_POPULATE_WRITE)
	}
	return errors.Join(err, munmap(at, length))
}

// touchOrdinary aligns the mapping to 2 MiB and asks for huge pages before the first page appears: allocated in
// any other order, ordinary RAM gets no transparent huge page even where the host allows them.
func touchOrdinary(file *os.File, length uintptr, populate bool) error {
	room, err := unix.MmapPtr(-1, 0, nil, length+thpBytes, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return os.NewSyscallError("mmap", err)
	}
	at, err := mmap(file, unsafe.Add(room, -uintptr(room)%thpBytes), length)
	if err == nil {
		err = advise(at, length, unix.MADV_HUGEPAGE)
		if errors.Is(err, unix.EINVAL) { // a kernel built without them
			err = nil
		}
	}
	if err == nil && populate {
		err = advise(at, length, unix.MADV_POPULATE_WRITE)
	}
	// All of it at once: between two unmappings another thread could have been given what is free already.
	return errors.Join(err, munmap(room, length+thpBytes))
}

// mmap maps the file whole, shared and writable: at a place that is the caller's own, or anywhere.
func mmap(file *os.File, place unsafe.Pointer, length uintptr) (unsafe.Pointer, error) {
	flags := unix.MAP_SHARED
	if place != nil {
		flags |= unix.MAP_FIXED
	}
	at, err := unix.MmapPtr(int(file.Fd()), 0, place, length, unix.PROT_READ|unix.PROT_WRITE, flags)
	return at, os.NewSyscallError("mmap", err)
}

func munmap(at unsafe.Pointer, length uintptr) error {
	return os.NewSyscallError("munmap", unix.MunmapPtr(at, length))
}

func advise(at unsafe.Pointer, length uintptr, advice int) error {
	for {
		err := unix.Madvise(unsafe.Slice((*byte)(at), length), advice)
		if !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EAGAIN) {
			return os.NewSyscallError("madvise", err)
		}
	}
}
