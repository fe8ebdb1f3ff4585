package memory

import (
	"errors"
	"fmt"
	"math/bits"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"qlive/vmstate"
)

// kernel is the system calls that make RAM, one by one, so that a test can fail each.
type kernel interface {
	memfd(name string, flags int) (*os.File, error)
	create(folder *os.Root, name string) (*os.File, error)
	truncate(file *os.File, size int64) error
	seal(file *os.File, seals int) error
	// touch maps the file whole and unmaps it, which reserves its huge pages; populate allocates every page.
	touch(file *os.File, size uint64, populate bool) error
}

// make makes the file of p, still empty.
func (h host) make(p plan, folder *os.Root) (*os.File, error) {
	if p.backing == vmstate.Hugetlbfs {
		return h.makeNamed(p, folder)
	}
	flags := unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	if p.backing == vmstate.Hugetlb {
		flags |= unix.MFD_HUGETLB | bits.TrailingZeros64(p.pageBytes)<<unix.MFD_HUGE_SHIFT
	}
	file, err := h.kernel.memfd(p.fileName, flags|unix.MFD_NOEXEC_SEAL)
	if errors.Is(err, unix.EINVAL) { // Linux before 6.3 does not know the flag
		file, err = h.kernel.memfd(p.fileName, flags)
	}
	if err != nil {
		return nil, vmstate.Errorf(vmstate.Host, "cannot make RAM block %q: %w", p.want.Name, err)
	}
	return file, nil
}

func (h host) makeNamed(p plan, folder *os.Root) (*os.File, error) {
	file, err := h.kernel.create(folder, p.fileName)
	if errors.Is(err, os.ErrExist) {
		return nil, vmstate.Errorf(vmstate.Conflict, "cannot make RAM block %q: %s exists", p.want.Name, p.path).
			With(fmt.Sprintf("it may be the RAM of a guest that still runs; if no process has it open (fuser %[1]s), rm %[1]s", p.path))
	}
	if err != nil {
		return nil, vmstate.Errorf(vmstate.Host, "cannot make RAM block %q in %s: %w", p.want.Name, filepath.Dir(p.path), err)
	}
	return file, nil
}

// fit gives r its size, seals it, has its pages promised and notes what it is.
func (h host) fit(r *Region) error {
	if err := h.kernel.truncate(r.file, int64(r.SizeBytes())); err != nil {
		return r.hostError("size", err)
	}
	if r.backing != vmstate.Hugetlbfs {
		if err := h.kernel.seal(r.file, unix.F_SEAL_GROW|unix.F_SEAL_SHRINK|unix.F_SEAL_SEAL); err != nil {
			return r.hostError("seal", err)
		}
	}
	if r.backing != vmstate.Memfd && !r.want.later || r.want.Populate {
		if err := h.kernel.touch(r.file, r.SizeBytes(), r.want.Populate); err != nil {
			return h.touchError(r, err)
		}
	}
	st, err := r.stat()
	if err != nil {
		return err
	}
	r.dev, r.inode = uint64(st.Dev), st.Ino
	return nil
}

func (h host) touchError(r *Region, err error) error {
	switch {
	case r.backing != vmstate.Memfd && noHugePage(err):
		return &shortage{plan: r.plan, err: err}
	case noHugePage(err):
		return vmstate.Errorf(vmstate.Exhausted, "cannot allocate the %d bytes of RAM block %q: %w", r.SizeBytes(), r.Name(), err).
			With("make the guest smaller, or free memory on the host")
	default:
		return r.hostError("map", err)
	}
}

// openFolder opens the folder of the hugetlbfs files, if nobody but root can put files there or take them away.
func openFolder(path string) (*os.Root, error) {
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, vmstate.Errorf(vmstate.Invalid, "cannot use %s for guest RAM: %w", path, err).
			With("give a folder on a hugetlbfs mount")
	}
	if err := checkFolder(root, path); err != nil {
		return nil, errors.Join(err, root.Close())
	}
	return root, nil
}

func checkFolder(root *os.Root, path string) error {
	info, err := root.Stat(".")
	if err != nil {
		return vmstate.Errorf(vmstate.Host, "cannot look at %s: %w", path, err)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return vmstate.Errorf(vmstate.Host, "cannot look at %s: no stat of it", path)
	}
	if st.Uid != 0 || st.Mode&0o022 != 0 {
		return vmstate.Errorf(vmstate.Denied, "cannot use %s for guest RAM: it belongs to user %d with mode %#o, and others could replace or cut the files in it",
			path, st.Uid, st.Mode&0o7777).
			With(fmt.Sprintf("mkdir -m 0700 %s as root, and give that folder", filepath.Join(path, "qlive")))
	}
	return nil
}

// mountPageBytes is the page size of the hugetlbfs that path is on.
func mountPageBytes(path string) (uint64, error) {
	if !filepath.IsAbs(path) {
		return 0, vmstate.Errorf(vmstate.Invalid, "cannot put guest RAM on hugetlbfs at %q: no absolute path", path).
			With("give the path of a hugetlbfs mount, such as /dev/hugepages, or a folder in it")
	}
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return 0, vmstate.Errorf(vmstate.Invalid, "cannot put guest RAM on hugetlbfs at %s: %w", path, err).
			With("mount -t hugetlbfs none " + path)
	}
	if st.Type != unix.HUGETLBFS_MAGIC {
		return 0, vmstate.Errorf(vmstate.Invalid, "cannot put guest RAM on hugetlbfs at %s: no hugetlbfs is mounted there", path).
			With("mount -t hugetlbfs none " + path)
	}
	return uint64(st.Bsize), nil
}
