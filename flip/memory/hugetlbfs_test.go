package memory

import (
	"os"
	"path/filepath"
	"testing"

	"qlive/vmstate"
)

func TestHugetlbfs(t *testing.T) {
	noLeak(t)
	hugePool(t, 2*mib, 8)
	dir := hugeMount(t, "pagesize=2M")
	set := mustCreate(t, vmstate.MemorySpec{Backing: vmstate.Hugetlbfs, Path: dir + "/", PageBytes: 2 * mib},
		Want{Name: "/objects/a", SizeBytes: 8 * mib}, Want{Name: "b", SizeBytes: 4 * mib, PageBytes: 2 * mib})
	path := filepath.Join(dir, "qlive-vm1-%2Fobjects%2Fa")
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o600 {
		t.Fatalf("mode %v (%v), want 0600", info.Mode(), err)
	}
	r := set.Regions()[0]
	checkMapping(t, r, mapFile(t, r.File(), int(r.SizeBytes())), path)
	checkPromised(t, r)
	if got := r.Value(); got.Backing != vmstate.Hugetlbfs || got.PageBytes != 2*mib {
		t.Errorf("value %+v", got)
	}
	if err := r.CheckSize(); err != nil {
		t.Error(err)
	}
	if err := os.Truncate(path, 2*mib); err != nil {
		t.Fatal(err)
	}
	checkKind(t, r.CheckSize(), vmstate.Host, "/objects/a", path, "2097152", "8388608")
	if err := set.Close(); err != nil {
		t.Error(err)
	}
	checkEmpty(t, dir)
}

func TestHugetlbfsKeepsWhatItDidNotMake(t *testing.T) {
	noLeak(t)
	hugePool(t, 2*mib, 2)
	dir := hugeMount(t, "pagesize=2M")
	spec := vmstate.MemorySpec{Backing: vmstate.Hugetlbfs, Path: dir}
	a, b := filepath.Join(dir, "qlive-vm1-a"), filepath.Join(dir, "qlive-vm1-b")
	if err := makeFile(b); err != nil {
		t.Fatal(err)
	}
	_, err := Create(spec, "vm1", []Want{{Name: "a", SizeBytes: 2 * mib}, {Name: "b", SizeBytes: 2 * mib}})
	checkKind(t, err, vmstate.Conflict, b, "rm "+b)
	if _, err := os.Stat(b); err != nil {
		t.Errorf("the file that was there is gone: %v", err)
	}
	if err := os.Remove(b); err != nil {
		t.Fatal(err)
	}

	set, err := Create(spec, "vm1", []Want{{Name: "a", SizeBytes: 2 * mib}, {Name: "b", SizeBytes: 2 * mib}})
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{os.Remove(a), makeFile(a), os.Remove(b)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := set.Close(); err == nil {
		t.Error("closing did not say that another file has taken the name")
	}
	if err := os.Remove(a); err != nil {
		t.Errorf("the other file is gone: %v", err)
	}
	checkEmpty(t, dir)
}

func TestHugetlbfsFolders(t *testing.T) {
	noLeak(t)
	hugePool(t, 2*mib, 1)
	dir := hugeMount(t, "pagesize=2M")
	for _, c := range []struct {
		name string
		uid  int
		mode os.FileMode
		ok   bool
	}{
		{"ours", 0, 0o700, true},
		{"readable", 0, 0o755, true},
		{"writable by a group", 0, 0o775, false},
		{"writable by all", 0, 0o777 | os.ModeSticky, false},
		{"somebody's", 1000, 0o700, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			noLeak(t)
			folder := filepath.Join(dir, "folder")
			for _, err := range []error{os.Mkdir(folder, 0o700), os.Chown(folder, c.uid, 0), os.Chmod(folder, c.mode)} {
				if err != nil {
					t.Fatal(err)
				}
			}
			defer os.Remove(folder)
			set, err := Create(vmstate.MemorySpec{Backing: vmstate.Hugetlbfs, Path: folder}, "vm1", []Want{{Name: "a", SizeBytes: 2 * mib}})
			if !c.ok {
				checkKind(t, err, vmstate.Denied, folder, "mkdir -m 0700 "+folder+"/qlive")
			} else if err != nil {
				t.Fatal(err)
			} else if err := set.Close(); err != nil {
				t.Error(err)
			}
			checkEmpty(t, folder)
		})
	}
	for name, spec := range map[string]vmstate.MemorySpec{
		"other pages in the spec": {Backing: vmstate.Hugetlbfs, Path: dir, PageBytes: 1 << 30},
		"a file":                  {Backing: vmstate.Hugetlbfs, Path: filepath.Join(dir, "file")},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(dir, "file")
			if err := makeFile(file); err != nil {
				t.Fatal(err)
			}
			defer os.Remove(file)
			_, err := Create(spec, "vm1", []Want{{Name: "a", SizeBytes: 2 * mib}})
			checkKind(t, err, vmstate.Invalid, spec.Path)
		})
	}
}

func TestHugetlbfsMountWithALimit(t *testing.T) {
	noLeak(t)
	hugePool(t, 2*mib, 4)
	dir := hugeMount(t, "pagesize=2M,size=4M")
	spec := vmstate.MemorySpec{Backing: vmstate.Hugetlbfs, Path: dir}
	_, err := Create(spec, "vm1", []Want{{Name: "a", SizeBytes: 6 * mib}})
	checkKind(t, err, vmstate.Exhausted, "3 huge pages", "size limit of the hugetlbfs mount")
	checkEmpty(t, dir)
}

// makeFile makes an empty file where nothing can be written, not even nothing.
func makeFile(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}
