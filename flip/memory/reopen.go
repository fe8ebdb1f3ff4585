package memory

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"qlive/vmstate"
)

// Identity is a block of RAM written down, so that a later process finds its file again and knows it for the same one.
type Identity struct {
	Name      string          `json:"name"` // of QEMU's RAM block
	Backing   vmstate.Backing `json:"backing"`
	SizeBytes uint64          `json:"size_bytes"`
	PageBytes uint64          `json:"page_bytes"`
	Dev       uint64          `json:"dev"`
	Inode     uint64          `json:"inode"`
	Seals     int             `json:"seals"` // F_GET_SEALS; 0 on hugetlbfs
	FileName  string          `json:"file_name"`
	Path      string          `json:"path,omitempty"` // of a file on hugetlbfs
	// Foreign: a QEMU had it before qlive did. Its name, if it has one, and its seals are somebody else's to keep.
	Foreign bool `json:"foreign,omitempty"`
}

// Identities is the set, written down.
func (s *Set) Identities() ([]Identity, error) {
	list := make([]Identity, len(s.regions))
	for i, r := range s.regions {
		list[i] = Identity{
			Name: r.Name(), Backing: r.backing, SizeBytes: r.SizeBytes(), PageBytes: r.pageBytes, Dev: r.dev, Inode: r.inode, FileName: r.fileName,
			Foreign: r.foreign,
		}
		if r.foreign {
			continue
		}
		if r.backing == vmstate.Hugetlbfs {
			list[i].Path = r.path
			continue
		}
		var err error
		if list[i].Seals, err = r.seals(); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// seals are those of r's memfd.
func (r *Region) seals() (int, error) {
	seals, err := unix.FcntlInt(r.file.Fd(), unix.F_GET_SEALS, 0)
	if err != nil {
		return 0, r.hostError("read the seals of", err)
	}
	return seals, nil
}

// Find gives a new descriptor of the file that an identity names, opened for reading and writing, or fs.ErrNotExist.
type Find func(Identity) (*os.File, error)

// Reopen is the set that was written down, with descriptors from the first of finds that has one. Each file must be the very same: device, inode,
// size and seals. Nothing about the RAM is changed, and of a Reopen that fails nothing is left.
//
// The errors are of kind Lost where a file is not to be found, and else of kind Host.
func Reopen(list []Identity, finds ...Find) (set *Set, err error) {
	set = &Set{}
	defer func() {
		if err != nil {
			err = errors.Join(err, set.forget())
			set = nil
		}
	}()
	for _, id := range list {
		r := &Region{
			plan:  plan{want: Want{Name: id.Name, SizeBytes: id.SizeBytes}, backing: id.Backing, pageBytes: id.PageBytes, fileName: id.FileName, path: id.Path},
			inode: id.Inode, dev: id.Dev, foreign: id.Foreign,
		}
		ours := id.Backing == vmstate.Hugetlbfs && !id.Foreign
		if ours && set.folder == nil {
			if set.folder, err = openFolder(filepath.Dir(id.Path)); err != nil {
				return set, err
			}
		}
		if ours {
			r.folder = set.folder
		}
		if r.file, err = find(id, finds); err != nil {
			return set, err
		}
		set.regions = append(set.regions, r)
		if err = r.same(id); err != nil {
			return set, err
		}
	}
	return set, nil
}

// find asks each of finds.
func find(id Identity, finds []Find) (*os.File, error) {
	for _, f := range finds {
		file, err := f(id)
		if err == nil {
			return file, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, vmstate.Errorf(vmstate.Host, "cannot open RAM block %q again: %w", id.Name, err)
		}
	}
	return nil, vmstate.Errorf(vmstate.Lost, "cannot find RAM block %q again: nobody has its file, inode %d, any more", id.Name, id.Inode).
		With("its QEMU has ended, and the guest with it: start it anew")
}

// same makes sure that r's file is what the identity says.
func (r *Region) same(id Identity) error {
	st, err := r.stat()
	if err != nil {
		return err
	}
	if uint64(st.Dev) != id.Dev || st.Ino != id.Inode {
		return vmstate.Errorf(vmstate.Host, "cannot use RAM block %q: its file is inode %d on device %d, and was inode %d on device %d",
			id.Name, st.Ino, st.Dev, id.Inode, id.Dev).With("this is another file: find out who put it there")
	}
	if err := r.CheckSize(); err != nil {
		return err
	}
	if r.backing == vmstate.Hugetlbfs || r.foreign {
		return nil
	}
	seals, err := r.seals()
	if err != nil {
		return err
	}
	if seals != id.Seals {
		return vmstate.Errorf(vmstate.Host, "cannot use RAM block %q: its seals are %#x, and were %#x", id.Name, seals, id.Seals).
			With("find out who sealed it; the guest must be started anew")
	}
	return nil
}

// forget closes the descriptors and leaves the RAM, and its names, as they are.
func (s *Set) forget() error {
	var errs []error
	for _, r := range s.regions {
		errs = append(errs, r.file.Close())
	}
	if s.folder != nil {
		errs = append(errs, s.folder.Close())
	}
	return errors.Join(errs...)
}

// LetGo closes the descriptors of RAM that runs on without this process. It is an end of the set, like Close, and files on hugetlbfs keep
// their names.
func (s *Set) LetGo() error {
	if s == nil {
		return nil
	}
	s.closing.Do(func() { s.closed = s.forget() })
	return s.closed
}

// InProcess finds files among the descriptors that a process has open. The caller holds the process by a pidfd: what it finds is of no
// use if that has ended meanwhile.
func InProcess(pid int) Find {
	dir := filepath.Join("/proc", strconv.Itoa(pid), "fd")
	return func(id Identity) (*os.File, error) {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return nil, fmt.Errorf("cannot look through the descriptors of process %d: %w", pid, err)
		}
		for _, e := range entries {
			path := filepath.Join(dir, e.Name())
			if info, err := os.Stat(path); err == nil && id.is(info) {
				return os.OpenFile(path, os.O_RDWR, 0)
			}
		}
		return nil, fs.ErrNotExist
	}
}

// InMaps finds files among those that a process maps, by /proc/PID/map_files: also what it has no descriptor of. The caller holds the process
// as for [InProcess], and needs CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE.
func InMaps(pid int) Find {
	dir := filepath.Join("/proc", strconv.Itoa(pid), "map_files")
	return func(id Identity) (*os.File, error) {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return nil, fmt.Errorf("cannot look through the mappings of process %d: %w", pid, err)
		}
		for _, e := range entries {
			path := filepath.Join(dir, e.Name())
			if info, err := os.Stat(path); err == nil && id.is(info) {
				return os.OpenFile(path, os.O_RDWR, 0)
			}
		}
		return nil, fs.ErrNotExist
	}
}

// Among finds files among descriptors that are open here already, such as those that a service manager has kept. They stay the caller's.
func Among(files []*os.File) Find {
	return func(id Identity) (*os.File, error) {
		for _, f := range files {
			if info, err := f.Stat(); err == nil && id.is(info) {
				return os.OpenFile("/proc/self/fd/"+strconv.Itoa(int(f.Fd())), os.O_RDWR, 0)
			}
		}
		return nil, fs.ErrNotExist
	}
}

// ByPath finds files on hugetlbfs by their names.
func ByPath(id Identity) (*os.File, error) {
	if id.Path == "" {
		return nil, fs.ErrNotExist
	}
	info, err := os.Lstat(id.Path)
	if err != nil || !id.is(info) {
		return nil, fs.ErrNotExist
	}
	return os.OpenFile(id.Path, os.O_RDWR|unix.O_NOFOLLOW, 0)
}

func (id Identity) is(info fs.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && st.Mode&unix.S_IFMT == unix.S_IFREG && uint64(st.Dev) == id.Dev && st.Ino == id.Inode
}
