package memory

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"qlive/vmstate"
)

// RAM that has been written down is found again, and is the same, wherever somebody has it.
func TestReopen(t *testing.T) {
	noLeak(t)
	hugePool(t, 2*mib, 4)
	dir := hugeMount(t, "pagesize=2M")
	for _, c := range []struct {
		name string
		spec vmstate.MemorySpec
		find func(*Set) Find
	}{
		{"memfd in a process", vmstate.MemorySpec{}, func(*Set) Find { return InProcess(os.Getpid()) }},
		{"memfd that was kept", vmstate.MemorySpec{}, func(s *Set) Find { return Among(s.Files()) }},
		{"huge pages in a process", vmstate.MemorySpec{Backing: vmstate.Hugetlb, PageBytes: 2 * mib}, func(*Set) Find { return InProcess(os.Getpid()) }},
		{"hugetlbfs by name", vmstate.MemorySpec{Backing: vmstate.Hugetlbfs, Path: dir}, func(*Set) Find { return ByPath }},
		{"hugetlbfs in a process", vmstate.MemorySpec{Backing: vmstate.Hugetlbfs, Path: dir}, func(*Set) Find { return InProcess(os.Getpid()) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			first := mustCreate(t, c.spec, Want{Name: "pc.ram", SizeBytes: 4 * mib}, Want{Name: "b", SizeBytes: 2 * mib})
			first.Regions()[0].Rename("/objects/pc.ram")
			written := mustIdentify(t, first)
			mapFile(t, first.Files()[0], 2*mib)[7] = 42
			nobody := func(Identity) (*os.File, error) { return nil, fs.ErrNotExist }
			again, err := Reopen(written, nobody, c.find(first))
			if err != nil {
				t.Fatal(err)
			}
			if now := mustIdentify(t, again); now[0] != written[0] || now[1] != written[1] {
				t.Errorf("it was %+v and is %+v", written, now)
			}
			if b := mapFile(t, again.Files()[0], 2*mib)[7]; b != 42 {
				t.Errorf("the byte is %d", b)
			}
			if was, is := first.Regions()[0].Value(), again.Regions()[0].Value(); was != is {
				t.Errorf("the region was %+v and is %+v", was, is)
			}
			if err := again.LetGo(); err != nil {
				t.Error(err)
			}
			if path := written[0].Path; path != "" {
				if _, err := os.Stat(path); err != nil {
					t.Errorf("letting go has removed the file: %v", err)
				}
			}
		})
	}
}

func mustIdentify(t *testing.T, s *Set) []Identity {
	t.Helper()
	list, err := s.Identities()
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// What is not the very file that was written down is refused, and nothing of the attempt is left.
func TestReopenRefuses(t *testing.T) {
	noLeak(t)
	set := mustCreate(t, vmstate.MemorySpec{}, Want{Name: "pc.ram", SizeBytes: 4 * mib}, Want{Name: "b", SizeBytes: 2 * mib})
	other := mustCreate(t, vmstate.MemorySpec{}, Want{Name: "pc.ram", SizeBytes: 4 * mib})
	give := func(f *os.File) Find {
		return func(Identity) (*os.File, error) {
			fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
			return os.NewFile(uintptr(fd), f.Name()), err
		}
	}
	for _, c := range []struct {
		name   string
		change func(*Identity)
		finds  []Find
		kind   vmstate.Kind
		words  string
	}{
		{"nobody has it", func(id *Identity) { id.Inode = 1 << 60 }, []Find{InProcess(os.Getpid()), ByPath, Among(set.Files())}, vmstate.Lost, "nobody has its file"},
		{"a process that is gone", func(*Identity) {}, []Find{InProcess(1 << 30)}, vmstate.Lost, "nobody has its file"},
		{"another file", func(*Identity) {}, []Find{give(other.Files()[0])}, vmstate.Host, "another file"},
		{"another size", func(id *Identity) { id.SizeBytes += mib }, []Find{Among(set.Files())}, vmstate.Host, "bytes long"},
		{"other seals", func(id *Identity) { id.Seals |= unix.F_SEAL_WRITE }, []Find{Among(set.Files())}, vmstate.Host, "seals"},
		{"a finder that fails", func(*Identity) {}, []Find{func(Identity) (*os.File, error) { return nil, errors.New("no luck") }}, vmstate.Host, "no luck"},
	} {
		t.Run(c.name, func(t *testing.T) {
			noLeak(t)
			list := mustIdentify(t, set)
			c.change(&list[1]) // the first is found before
			finds := c.finds
			if c.name == "another file" || c.name == "a finder that fails" {
				finds = append([]Find{func(id Identity) (*os.File, error) {
					if id.Name == "pc.ram" {
						return Among(set.Files())(id)
					}
					return nil, fs.ErrNotExist
				}}, finds...)
			}
			_, err := Reopen(list, finds...)
			checkKind(t, err, c.kind, c.words)
		})
	}
}

// A file on hugetlbfs is found by its name only while it is the one.
func TestByPath(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "ram")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	id := Identity{Path: path, Dev: st.Dev, Inode: st.Ino}
	f, err := ByPath(id)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	link := filepath.Join(dir, "link")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	for name, id := range map[string]Identity{
		"another inode": {Path: path, Dev: st.Dev, Inode: st.Ino + 1}, "no path": {Dev: st.Dev, Inode: st.Ino},
		"a link to it": {Path: link, Dev: st.Dev, Inode: st.Ino}, "nothing there": {Path: path + "2", Dev: st.Dev, Inode: st.Ino},
	} {
		if _, err := ByPath(id); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
