package fstest

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"qlive/vmstate"
)

// Target is a mounted tree with at least one VM.
type Target struct {
	Dir string // where it is mounted
	VM  string // a VM with at least one region
}

// Case is one thing that a tree must do. Names do not change.
type Case struct {
	Name string
	Run  func(t *testing.T, tree Target)
}

// Cases are all of them.
func Cases() []Case {
	return []Case{
		{"values/end-in-newline", valuesEnd},
		{"values/numbers-and-flags", numbers},
		{"values/words", words},
		{"values/agree-with-state.json", agreement},
		{"values/cat-sees-what-is-there", cat},
		{"attributes/modes", modes},
		{"attributes/inode-numbers", inodes},
		{"attributes/log-sizes", logSizes},
		{"names/unknown", unknown},
		{"writing/refused", refused},
		{"ctl/rubbish", rubbish},
		{"ctl/not-readable", unreadable},
		{"programs/walk", walkers},
		{"programs/copy", copier},
		{"events/first-line", firstEvent},
		{"health/first-word", health},
	}
}

// path joins parts to the tree's folder.
func (tree Target) path(parts ...string) string {
	return filepath.Join(append([]string{tree.Dir}, parts...)...)
}

// endless are files that reading does not end, or that cannot be read.
func endless(name string) bool { return name == "events" || name == "ctl" }

// Files are the tree's readable files, as paths below its folder. What disappears while they are being
// listed is left out.
func (tree Target) Files(t *testing.T) []string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(tree.Dir, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && path != tree.Dir {
			return nil
		}
		if err != nil {
			return err
		}
		if !entry.IsDir() && !endless(entry.Name()) {
			name, err := filepath.Rel(tree.Dir, path)
			if err != nil {
				return err
			}
			all = append(all, name)
		}
		return nil
	})
	if err != nil {
		t.Fatalf("cannot walk the tree: %v", err)
	}
	if len(all) == 0 {
		t.Fatalf("cannot find any file in %s", tree.Dir)
	}
	return all
}

// Read is the text of a file without its last newline.
func (tree Target) Read(t *testing.T, parts ...string) string {
	t.Helper()
	data, err := os.ReadFile(tree.path(parts...))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSuffix(string(data), "\n")
}

func isLog(name string) bool {
	return filepath.Base(name) == "console" || filepath.Base(name) == "qemu_log"
}

func valuesEnd(t *testing.T, tree Target) {
	for _, name := range tree.Files(t) {
		if isLog(name) {
			continue
		}
		text, err := os.ReadFile(tree.path(name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		switch {
		case err != nil:
			t.Error(err)
		case !bytes.HasSuffix(text, []byte("\n")):
			t.Errorf("%s does not end in a newline: %q", name, text)
		case len(text) == 1:
			t.Errorf("%s is empty, and should read none", name)
		case bytes.ContainsAny(text, "\r\x00"):
			t.Errorf("%s contains control characters: %q", name, text)
		case !slices.Contains(manyLines(), filepath.Base(name)) && bytes.Count(text, []byte("\n")) != 1:
			t.Errorf("%s is not one value on one line: %q", name, text)
		}
	}
}

// manyLines are the files that may have several lines.
func manyLines() []string { return []string{"state.json", "log", "warnings", "error", "health"} }

func numbers(t *testing.T, tree Target) {
	number := regexp.MustCompile(`^(0|[1-9][0-9]*)$`)
	for _, name := range tree.Files(t) {
		base, value := filepath.Base(name), ""
		switch {
		case strings.HasSuffix(base, "_bytes"), strings.HasSuffix(base, "_us"), strings.HasSuffix(base, "_seconds"),
			slices.Contains([]string{"abi", "pid", "owner_pid", "generation", "inode", "progress", "outdated"}, base):
			value = tree.Read(t, name)
		default:
			continue
		}
		mayLack := strings.HasSuffix(base, "pid") || strings.Contains(name, "migration")
		switch {
		case value == "none" && mayLack:
		case !number.MatchString(value):
			t.Errorf("%s is no number: %q", name, value)
		case base == "outdated" && value != "0" && value != "1":
			t.Errorf("%s is neither 0 nor 1: %q", name, value)
		case base == "progress":
			if n, _ := strconv.Atoi(value); n > 100 {
				t.Errorf("%s is beyond 100: %q", name, value)
			}
		}
	}
}

func words(t *testing.T, tree Target) {
	statuses := []vmstate.Status{vmstate.Running, vmstate.Paused, vmstate.Migrating, vmstate.Stopped, vmstate.Broken, vmstate.Starting}
	if s := vmstate.Status(tree.Read(t, tree.VM, "status")); !slices.Contains(statuses, s) {
		t.Errorf("status is %q, none of %q", s, statuses)
	}
	if p := vmstate.Phase(tree.Read(t, tree.VM, "migration", "phase")); p != "none" && p.Info().Phase != p {
		t.Errorf("phase is %q, which is no phase", p)
	}
	regions, err := os.ReadDir(tree.path(tree.VM, "regions"))
	if err != nil || len(regions) == 0 {
		t.Fatalf("cannot find a region of %s: %v", tree.VM, err)
	}
	for _, region := range regions {
		if s := vmstate.RegionState(tree.Read(t, tree.VM, "regions", region.Name(), "state")); s.Rank() < 0 {
			t.Errorf("state of region %s is %q, which is no state", region.Name(), s)
		}
	}
}

func agreement(t *testing.T, tree Target) {
	var vm vmstate.VM
	if err := json.Unmarshal([]byte(tree.Read(t, tree.VM, "state.json")), &vm); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"ram_bytes":    strconv.FormatUint(vm.RAMBytes, 10),
		"machine":      vm.Machine,
		"qemu_version": vm.QEMU.Version,
		"qemu_binary":  vm.QEMU.Binary,
		"generation":   strconv.Itoa(vm.Generation),
	} {
		if got := tree.Read(t, tree.VM, name); got != want && (want != "" || got != "none") {
			t.Errorf("%s is %q, but %q in state.json", name, got, want)
		}
	}
	regions, err := os.ReadDir(tree.path(tree.VM, "regions"))
	if err != nil || len(regions) != len(vm.Regions) {
		t.Errorf("the folder has %d regions, state.json %d (%v)", len(regions), len(vm.Regions), err)
	}
	id := tree.Read(t, tree.VM, "migration", "id")
	if id == "none" {
		if got := tree.Read(t, tree.VM, "migration", "state.json"); got != "null" {
			t.Errorf("migration/state.json without a migration is %q, not null", got)
		}
		return
	}
	var m vmstate.Migration
	if err := json.Unmarshal([]byte(tree.Read(t, tree.VM, "migration", "state.json")), &m); err != nil {
		t.Fatal(err)
	}
	if m.ID != id || m.VM != tree.VM {
		t.Errorf("migration/state.json is about %s of %s, not %s of %s", m.ID, m.VM, id, tree.VM)
	}
	if got := tree.Read(t, "migrations", id, "vm"); got != tree.VM {
		t.Errorf("migrations/%s/vm is %q, not %q", id, got, tree.VM)
	}
}

func modes(t *testing.T, tree Target) {
	err := filepath.WalkDir(tree.Dir, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && path != tree.Dir {
			return nil
		}
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		// For the owner alone, with the group, or for all.
		allowed := []fs.FileMode{0o400, 0o440, 0o444}
		switch {
		case entry.IsDir():
			allowed = []fs.FileMode{fs.ModeDir | 0o500, fs.ModeDir | 0o550, fs.ModeDir | 0o555}
		case entry.Name() == "ctl":
			allowed = []fs.FileMode{0o200, 0o220}
		}
		if !slices.Contains(allowed, info.Mode()) {
			t.Errorf("%s has mode %v, not one of %v", path, info.Mode(), allowed)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func inodes(t *testing.T, tree Target) {
	number := func(name string) uint64 {
		var st unix.Stat_t
		if err := unix.Lstat(tree.path(name), &st); err != nil {
			t.Fatalf("cannot stat %s: %v", name, err)
		}
		return st.Ino
	}
	seen := make(map[uint64]string)
	for _, name := range tree.Files(t) {
		if strings.Contains(name, "migration") {
			continue // these may go while we look
		}
		n := number(name)
		if other, twice := seen[n]; twice {
			t.Errorf("%s and %s have the same inode number", name, other)
		}
		seen[n] = name
		if again := number(name); again != n {
			t.Errorf("%s has inode number %d, then %d", name, n, again)
		}
	}
}

func logSizes(t *testing.T, tree Target) {
	for _, name := range []string{"console", "qemu_log"} {
		before, err := os.Stat(tree.path(tree.VM, name))
		if err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(tree.path(tree.VM, name))
		if err != nil {
			t.Fatal(err)
		}
		after, err := os.Stat(tree.path(tree.VM, name))
		if err != nil {
			t.Fatal(err)
		}
		if n := int64(len(data)); n < before.Size() || n > after.Size() {
			t.Errorf("%s has %d bytes, but size %d before and %d after", name, n, before.Size(), after.Size())
		}
	}
}

func unknown(t *testing.T, tree Target) {
	for _, name := range []string{
		"no-such-vm", "no-such-vm/status", "migrations/no-such-migration", "NONE", "%", "..vm",
		tree.VM + "/no-such-file", tree.VM + "/regions/no-such-region", tree.VM + "/migration/ctl",
	} {
		if _, err := os.Lstat(tree.path() + "/" + name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v, not ENOENT", name, err)
		}
	}
	if _, err := os.Lstat(tree.path(tree.VM, "status") + "/x"); !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("a file as a folder: %v, not ENOTDIR", err)
	}
}

func health(t *testing.T, tree Target) {
	first, _, _ := strings.Cut(tree.Read(t, "health"), "\n")
	if !slices.Contains([]string{"ok", "degraded", "starting"}, first) {
		t.Errorf("health begins with %q", first)
	}
	if v := tree.Read(t, "version"); v == "" || v == "none" {
		t.Errorf("version is %q", v)
	}
}
