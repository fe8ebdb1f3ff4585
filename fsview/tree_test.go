package fsview_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"qlive/fsview"
	"qlive/fsview/fstest"
	"qlive/vmstate"
)

func target(tree *fsview.FS) fstest.Target { return fstest.Target{Dir: tree.Dir(), VM: "vm1"} }

func TestConformance(t *testing.T) {
	for _, vm := range []string{"vm1", "vm2"} {
		t.Run(vm, func(t *testing.T) {
			source := newFake(withLogs(t, example()))
			tree := mount(t, source, fsview.Options{})
			for _, c := range fstest.Cases() {
				t.Run(c.Name, func(t *testing.T) { c.Run(t, fstest.Target{Dir: tree.Dir(), VM: vm}) })
			}
		})
	}
}

// withLogs gives each VM of s files with text.
func withLogs(t *testing.T, s *vmstate.Snapshot) *vmstate.Snapshot {
	t.Helper()
	dir := t.TempDir()
	write := func(name string, size int) string {
		path := filepath.Join(dir, name)
		text := strings.Repeat(name+" says something\n", size)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for i := range s.VMs {
		name := s.VMs[i].Name
		s.VMs[i].ConsoleLog = []string{write(name+"-console-0", 20_000), write(name+"-console-1", 3)}
		s.VMs[i].QEMULog = []string{write(name+"-qemu-0", 2), write(name+"-qemu-1", 1)}
	}
	return s
}

func TestDoc(t *testing.T) {
	page, err := os.ReadFile("../docs/tree.md")
	if err != nil {
		t.Fatal(err)
	}
	tree := mount(t, newFake(example()), fsview.Options{})
	t.Run("files", func(t *testing.T) { fstest.CheckDoc(t, target(tree), string(page)) })
	t.Run("commands", func(t *testing.T) {
		for _, verb := range fsview.Verbs() {
			if !strings.Contains(string(page), "\n| `"+string(verb)+"` |") {
				t.Errorf("the page lacks the command %s", verb)
			}
		}
	})
	t.Run("errors", func(t *testing.T) {
		for _, row := range vmstate.Kinds() {
			name := unix.ErrnoName(ctlErrno(row))
			if name == "ENOTSUP" {
				name = "EOPNOTSUPP" // the same number, and what strerror speaks of
			}
			line := "\n| `" + name + "` |"
			_, after, ok := strings.Cut(string(page), line)
			if after, _, _ = strings.Cut(after, "\n"); !ok || !strings.Contains(after, "`"+string(row.Kind)+"`") {
				t.Errorf("the page lacks %s in %q", row.Kind, line)
			}
		}
	})
	t.Run("words", func(t *testing.T) {
		for _, row := range vmstate.Phases() {
			if !strings.Contains(string(page), "`"+string(row.Phase)+"`") {
				t.Errorf("the page lacks the phase %s", row.Phase)
			}
		}
		for _, state := range vmstate.RegionStates() {
			if !strings.Contains(string(page), "`"+string(state)+"`") {
				t.Errorf("the page lacks the state %s", state)
			}
		}
	})
}

func TestGolden(t *testing.T) {
	clock := func() time.Time { return at(42) }
	tree := mount(t, newFake(example()), fsview.Options{Trust: vmstate.Trust{Group: 4711, Others: vmstate.RoleRead}}.WithClock(clock))
	var got txtar.Archive
	var listing strings.Builder
	err := filepath.WalkDir(tree.Dir(), func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(tree.Dir(), path)
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		number := fmt.Sprint(st.Ino)
		fmt.Fprintf(&listing, "%06o %d:%d %19s %s\n", st.Mode, st.Uid, st.Gid, number, name)
		if entry.IsDir() || entry.Name() == "ctl" || entry.Name() == "events" {
			return nil
		}
		data, err := os.ReadFile(path)
		got.Files = append(got.Files, txtar.File{Name: name, Data: data})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	got.Comment = []byte(listing.String())
	text := string(txtar.Format(&got))
	golden := filepath.Join("testdata", "tree.txtar")
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(golden, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), text); diff != "" {
		t.Errorf("the tree differs from %s (-update writes it anew):\n%s", golden, diff)
	}
}

// TestManyReaders reads with 1,000 readers at once while the state changes all the time, and makes sure that each
// open file is of one moment.
func TestManyReaders(t *testing.T) {
	source := newFake(generation(0))
	tree := mount(t, source, fsview.Options{})
	stop := make(chan struct{})
	var publisher, readers sync.WaitGroup
	publisher.Go(func() {
		for g := 1; ; g++ {
			select {
			case <-stop:
				return
			default:
				source.snap.Store(generation(g))
				source.send(event(uint64(g)))
			}
		}
	})
	for i := range 1000 {
		readers.Go(func() {
			for range 3 {
				if err := readOneMoment(tree.Dir(), i); err != nil {
					t.Error(err)
				}
			}
		})
	}
	readers.Wait()
	close(stop)
	publisher.Wait()
}

// generation is a state in which every number is g.
func generation(g int) *vmstate.Snapshot {
	s := &vmstate.Snapshot{At: at(0), Version: "0.1.0", Health: vmstate.Health{Ready: true}}
	for i := range 1 + g%3 { // VMs come and go, but for the first
		s.VMs = append(s.VMs, vmstate.VM{
			Name: fmt.Sprintf("vm%d", i), Status: vmstate.Running, Generation: g, RAMBytes: uint64(g),
			Regions: []vmstate.Region{{Name: "ram0", State: vmstate.Owned, SizeBytes: uint64(g), Inode: uint64(g)}},
		})
	}
	return s
}

func readOneMoment(dir string, reader int) error {
	if reader%2 == 0 {
		data, err := os.ReadFile(filepath.Join(dir, "vm2", "status"))
		if err == nil && string(data) != "running\n" || err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("status of a VM that comes and goes: %q, %w", data, err)
		}
	}
	data, err := os.ReadFile(filepath.Join(dir, "vm0", "state.json"))
	if err != nil {
		return err
	}
	var vm vmstate.VM
	if err := json.Unmarshal(data, &vm); err != nil {
		return err
	}
	g := uint64(vm.Generation)
	if vm.RAMBytes != g || len(vm.Regions) != 1 || vm.Regions[0].SizeBytes != g || vm.Regions[0].Inode != g {
		return fmt.Errorf("state.json is of several moments: %s", data)
	}
	return nil
}

func TestOneOpenOneMoment(t *testing.T) {
	source := newFake(example())
	tree := mount(t, source, fsview.Options{})
	f, err := os.Open(filepath.Join(tree.Dir(), "vm1", "status"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	before, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	source.snap.Store(&vmstate.Snapshot{At: at(50)}) // the VM is gone
	buf := make([]byte, 100)
	n, err := f.ReadAt(buf[:3], 0)
	if err != nil || string(buf[:n]) != "run" {
		t.Errorf("the beginning is %q, %v", buf[:n], err)
	}
	if n, _ = f.ReadAt(buf, 3); string(buf[:n]) != "ning\n" {
		t.Errorf("the rest is %q", buf[:n])
	}
	if n, _ = f.ReadAt(buf, 1000); n != 0 {
		t.Errorf("beyond the end is %q", buf[:n])
	}
	after, err := f.Stat()
	if err != nil || !os.SameFile(before, after) {
		t.Errorf("the open file is another now: %v", err)
	}
	if _, err := os.Stat(f.Name()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the file of a VM that is gone: %v", err)
	}
	if _, err := os.ReadDir(filepath.Dir(f.Name())); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the folder of a VM that is gone: %v", err)
	}
	source.snap.Store(example())
	back, err := os.Stat(f.Name())
	if err != nil || !os.SameFile(before, back) {
		t.Errorf("the same path is another file now: %v", err)
	}
}

// Who reads whether a VM is outdated is told the truth of that moment, for which its file is looked at; for nothing else it is.
func TestOutdatedIsLookedAt(t *testing.T) {
	source := newFake(example())
	looks := make(chan string, 10)
	source.look = func(vm string) {
		looks <- vm
		next := *source.snap.Load()
		next.VMs = slices.Clone(next.VMs)
		for i := range next.VMs {
			next.VMs[i].QEMU.Outdated = next.VMs[i].Name == vm
		}
		source.snap.Store(&next)
	}
	tree := mount(t, source, fsview.Options{})
	for _, file := range []struct{ name, says string }{{"status", "migrating"}, {"outdated", "1\n"}, {"qemu_version", "7.2.22"}, {"state.json", `"outdated": true`}, {"migration/state.json", "mig-1"}} {
		text, err := os.ReadFile(filepath.Join(tree.Dir(), "vm2", file.name))
		if err != nil || !strings.Contains(string(text), file.says) {
			t.Errorf("%s is %q, %v", file.name, text, err)
		}
	}
	for range 2 {
		if vm := <-looks; vm != "vm2" {
			t.Errorf("looked at %q", vm)
		}
	}
	if n := len(looks); n != 0 {
		t.Errorf("looked %d times more", n)
	}
}

func TestListingManyVMs(t *testing.T) {
	tree := mount(t, newFake(many(3000)), fsview.Options{})
	entries, err := os.ReadDir(tree.Dir())
	if err != nil || len(entries) != 3005 {
		t.Fatalf("%d entries, not 3005: %v", len(entries), err)
	}
	if data, err := os.ReadFile(filepath.Join(tree.Dir(), "vm02999", "status")); string(data) != "running\n" {
		t.Errorf("status of the last is %q, %v", data, err)
	}
}

func TestLookupCostsTheSameForOneAsForMany(t *testing.T) {
	cost := func(s *vmstate.Snapshot) float64 {
		last := s.VMs[len(s.VMs)-1].Name
		return testing.AllocsPerRun(100, func() {
			for _, path := range []string{"/status", "/regions/ram0/state", "/migration/error"} {
				if !fsview.Has(s, last+path) {
					t.Fatalf("cannot find %s", last+path)
				}
			}
		})
	}
	if one, all := cost(many(1)), cost(many(10_000)); one != all {
		t.Errorf("%v allocations with one VM, %v with ten thousand", one, all)
	}
}

func TestFileNames(t *testing.T) {
	for name, want := range map[string]string{
		"ram0": "ram0", "pc.ram": "pc.ram", "/objects/ram0": "%2Fobjects%2Fram0", "a b": "a%20b", "a%b": "a%25b",
		"ü": "%C3%BC", ".": "%2E", "..": "%2E%2E", "...": "...", "": "%", "a:b@c+d=e~f": "a:b@c+d=e%7Ef", "\x00\n": "%00%0A", "\xff": "%FF",
	} {
		if got := fsview.FileName(name); got != want {
			t.Errorf("the file name of %q is %q, not %q", name, got, want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.OneOf(rapid.String(), rapid.Map(rapid.SliceOf(rapid.Byte()), func(b []byte) string { return string(b) })).Draw(t, "name")
		file := fsview.FileName(name)
		if file == "" || file == "." || file == ".." || strings.ContainsAny(file, "/\x00") {
			t.Fatalf("%q is no file name", file)
		}
		if back, err := url.PathUnescape(file); name != "" && (err != nil || back != name) {
			t.Fatalf("%q decodes to %q, %v, not to %q", file, back, err, name)
		}
	})
}

func TestEveryListedNameIsFound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawSnapshot(t)
		var walk func(path string)
		walk = func(path string) {
			names, data, found := fsview.At(s, path)
			if !found {
				t.Fatalf("%q is listed, but not found", path)
			}
			if data != "" && !strings.HasSuffix(data, "\n") {
				t.Fatalf("%q does not end in a newline: %q", path, data)
			}
			if sorted := slices.Sorted(slices.Values(names)); len(slices.Compact(sorted)) != len(names) {
				t.Fatalf("%q lists a name twice: %q", path, names)
			}
			for _, name := range names {
				walk(strings.TrimPrefix(path+"/"+name, "/"))
			}
		}
		walk("")
	})
}

// drawSnapshot makes up a state with odd names and texts.
func drawSnapshot(t *rapid.T) *vmstate.Snapshot {
	s := &vmstate.Snapshot{Version: rapid.String().Draw(t, "version")}
	s.Health.Problems = []vmstate.Problem{{Detail: rapid.String().Draw(t, "problem")}}
	name := rapid.StringMatching(`[a-z0-9][a-z0-9._-]{0,5}`)
	for _, vm := range rapid.SliceOfNDistinct(name, 0, 4, rapid.ID).Draw(t, "vms") {
		if vmstate.CheckName(vm) != nil {
			continue
		}
		one := vmstate.VM{Name: vm, Machine: rapid.String().Draw(t, "machine"), Migration: "m" + vm}
		for _, region := range rapid.SliceOfNDistinct(rapid.String(), 0, 3, rapid.ID).Draw(t, "regions") {
			one.Regions = append(one.Regions, vmstate.Region{Name: region, Note: rapid.String().Draw(t, "note")})
		}
		s.VMs = append(s.VMs, one)
	}
	for _, id := range rapid.SliceOfNDistinct(rapid.String(), 0, 3, rapid.ID).Draw(t, "migrations") {
		s.Migrations = append(s.Migrations, vmstate.Migration{ID: id, Log: []vmstate.LogLine{{Text: rapid.String().Draw(t, "log")}}})
	}
	return s
}

func FuzzPath(f *testing.F) {
	for _, seed := range []string{"", "vm1", "vm1/status", "vm1/status/x", "migrations//", "/", "vm1/regions/../..", "\x00", "vm2/regions/%2Fobjects%2Fram%201/state"} {
		f.Add(seed)
	}
	s := example()
	f.Fuzz(func(t *testing.T, path string) {
		_, data, found := fsview.At(s, path)
		if data != "" && (!found || !strings.HasSuffix(data, "\n")) {
			t.Errorf("%q: %q", path, data)
		}
	})
}

func FuzzMountinfo(f *testing.F) {
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(table)
	f.Add([]byte("36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 - fuse.qlive qlive rw\n1 2"))
	f.Fuzz(func(t *testing.T, table []byte) {
		if entries := fsview.ParseMountinfo(table); len(entries) > strings.Count(string(table), "\n")+1 {
			t.Errorf("%d entries", len(entries))
		}
	})
}
