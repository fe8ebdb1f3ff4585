package memory

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"qlive/vmstate"
)

// Region is one block of guest RAM and the file that holds it.
type Region struct {
	plan
	file   *os.File
	folder *os.Root // of a file on hugetlbfs
	dev    uint64
	inode  uint64
	// foreign: somebody else made the file.
	foreign bool
}

// Name is the name of QEMU's RAM block.
func (r *Region) Name() string { return r.want.Name }

// Rename gives the block the name that QEMU turned out to have for it. The file keeps its own.
//
// Preconditions: nobody else has the region yet.
func (r *Region) Rename(block string) { r.want.Name = block }

// SizeBytes is the size, which never changes.
func (r *Region) SizeBytes() uint64 { return r.want.SizeBytes }

// PageBytes is the size of the file's pages: the host's ordinary page, or a huge page.
func (r *Region) PageBytes() uint64 { return r.pageBytes }

// AlignBytes is what QEMU must be told to align its mapping to (align= of memory-backend-file). By itself it aligns to
// the file's pages only, and ordinary RAM so mapped never gets transparent huge pages.
func (r *Region) AlignBytes() uint64 {
	if r.SizeBytes() < thpBytes {
		return r.pageBytes
	}
	return max(r.pageBytes, thpBytes)
}

// Backing says what the file is.
func (r *Region) Backing() vmstate.Backing { return r.backing }

// Dev is the device number as fstat gives it; unix.Major and unix.Minor of it stand in /proc/PID/maps.
func (r *Region) Dev() uint64 { return r.dev }

// Inode is the inode number, as in /proc/PID/maps.
func (r *Region) Inode() uint64 { return r.inode }

// File is the file itself. It belongs to the set: do not close it.
func (r *Region) File() *os.File { return r.file }

// AllocatedBytes is how much memory the file owns now, whoever maps it. Exact in huge pages; of ordinary
// pages it includes what is swapped out, and a transparent huge page that reaches beyond the end.
func (r *Region) AllocatedBytes() (uint64, error) {
	st, err := r.stat()
	if err != nil {
		return 0, err
	}
	return uint64(st.Blocks) * 512, nil // st_blocks counts in 512 bytes on every file system
}

// thpBytes is the largest transparent huge page.
const thpBytes = 2 << 20

// HasHoles tells whether some page of the block is not allocated, because the guest never touched it or gave
// it back: populating such a block would fill the holes. It takes microseconds, but for a block whose
// size is no multiple of 2 MiB and that seems full about 10 ms a GiB.
func (r *Region) HasHoles() (bool, error) {
	allocated, err := r.AllocatedBytes()
	if err != nil || allocated < r.SizeBytes() {
		return err == nil, err
	}
	if r.pageBytes >= thpBytes || r.SizeBytes()%thpBytes == 0 {
		return false, nil
	}
	// A transparent huge page at the end may stand in the count for a hole elsewhere.
	hole, err := r.file.Seek(0, unix.SEEK_HOLE)
	if err != nil {
		return false, r.hostError("look for holes in", err)
	}
	return uint64(hole) < r.SizeBytes(), nil
}

// CheckSize makes sure that the file is as large as the block, and fails with kind Host if not: a QEMU that
// maps a file cut short dies of SIGBUS. Only a file on hugetlbfs can change; it must be looked at before each
// handoff.
func (r *Region) CheckSize() error {
	st, err := r.stat()
	if err != nil {
		return err
	}
	if uint64(st.Size) != r.SizeBytes() {
		return vmstate.Errorf(vmstate.Host, "cannot use RAM block %q: its file %s is %d bytes long and must be %d",
			r.Name(), r.file.Name(), st.Size, r.SizeBytes()).
			With("find out who changed it; the guest must be started anew")
	}
	return nil
}

// Value is the region as it is before any handoff, without an owner.
func (r *Region) Value() vmstate.Region {
	return vmstate.Region{
		Name: r.Name(), SizeBytes: r.SizeBytes(), PageBytes: r.PageBytes(), Backing: r.Backing(), Inode: r.Inode(),
		State: vmstate.Owned, TotalBytes: r.SizeBytes(),
	}
}

func (r *Region) stat() (*syscall.Stat_t, error) {
	info, err := r.file.Stat()
	if err != nil {
		return nil, r.hostError("look at", err)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return nil, r.hostError("look at", errors.New("no stat of it"))
	}
	return st, nil
}

func (r *Region) hostError(doing string, err error) error {
	return vmstate.Errorf(vmstate.Host, "cannot %s RAM block %q: %w", doing, r.Name(), err)
}

// close closes the file, and unlinks it if it has a name. A file of that name which is not ours stays.
func (r *Region) close() error {
	var unlink error
	if r.folder != nil {
		unlink = r.unlink()
	}
	return errors.Join(unlink, r.file.Close())
}

func (r *Region) unlink() error {
	name := r.fileName
	there, err := r.folder.Lstat(name)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot look at %s before unlinking it: %w", r.file.Name(), err)
	}
	ours, err := r.file.Stat()
	if err != nil {
		return fmt.Errorf("cannot look at the open file %s before unlinking it: %w", r.file.Name(), err)
	}
	if !os.SameFile(there, ours) {
		return fmt.Errorf("cannot unlink %s: another file has taken its name", r.file.Name())
	}
	if err := r.folder.Remove(name); err != nil {
		return fmt.Errorf("cannot unlink %s: %w", r.file.Name(), err)
	}
	return nil
}

var _ io.Closer = (*Set)(nil)
