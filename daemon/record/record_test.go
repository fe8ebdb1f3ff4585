package record

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"qlive/flip/memory"
	"qlive/internal/qemu"
	"qlive/internal/qemu/cmdline"
	"qlive/vmstate"
)

func example() VM {
	return VM{
		Spec:      vmstate.VMSpec{Name: "vm1", Binary: "/usr/bin/qemu", Args: []string{"-m", "256", "-name", "<a&b>"}, Dir: "/"},
		Facts:     cmdline.Facts{Machine: cmdline.Machine{Name: "pc-q35-7.2"}},
		StartedAt: time.Date(2026, 11, 23, 8, 0, 0, 123, time.UTC),
		Memory:    []memory.Identity{{Name: "pc.ram", Backing: vmstate.Memfd, SizeBytes: 1 << 28, PageBytes: 4096, Dev: 1, Inode: 77, Seals: 7, FileName: "qlive-vm1-pc.ram"}},
		Objects:   map[string]string{"pc.ram": "pc.ram"}, Warnings: []string{"small pages"},
		Generations: []Generation{
			{
				Number: 0, Dir: "/run/qlive/vms/vm1/g0", Version: "7.2.22", Package: "Debian", Process: qemu.Identity{PID: 12, Start: 99},
				Line:   &cmdline.Line{Args: []vmstate.Arg{{Value: "-m"}, {Value: "256"}}, Monitor: "/run/qlive/vms/vm1/g0/qmp.sock"},
				Binary: qemu.Binary{Path: "/usr/bin/qemu", Real: "/usr/bin/qemu", ID: qemu.FileID{Dev: 1, Inode: 2}},
			},
			{Number: 2, Dir: "/run/qlive/vms/vm1/g2", Line: &cmdline.Line{}},
		},
		Current: 0, Next: 3, Completed: 1, Past: []string{"/opt/qemu"}, Logs: []string{"/a"}, Consoles: []string{"/b"},
	}
}

func TestWriteAndRead(t *testing.T) {
	dir := t.TempDir()
	if _, err := Read(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no record: %v", err)
	}
	want := example()
	for range 2 { // the second replaces the first
		if err := Write(dir, want); err != nil {
			t.Fatal(err)
		}
	}
	got, err := Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("written and read (-want +got):\n%s", diff)
	}
	info, err := os.Stat(filepath.Join(dir, FileName))
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if left, _ := filepath.Glob(dir + "/*.new"); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	if err := Write(filepath.Join(dir, "none"), want); vmstate.KindOf(err) != vmstate.Host {
		t.Errorf("no folder: %v", err)
	}
}

func TestReadRefuses(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(string) string
		kind   vmstate.Kind
		says   string
	}{
		{"cut short", func(s string) string { return s[:len(s)/2] }, vmstate.Host, "vm.json"},
		{"empty", func(string) string { return "" }, vmstate.Host, "vm.json"},
		{"another format", replacing(formatName, "qlive-journal"), vmstate.Host, "qlive-journal"},
		{"a newer level", replacing(`"level": 1`, `"level": 2`), vmstate.Unsupported, "reads up to 1"},
		{"no level", replacing(`"level": 1`, `"level": 0`), vmstate.Unsupported, "level 0"},
		{"a name that is none", replacing(`"name": "vm1"`, `"name": "../x"`), vmstate.Host, "../x"},
		{"a current generation that is not there", replacing(`"current": 0`, `"current": 1`), vmstate.Host, "generation 1 has the guest"},
		{"a generation of the future", replacing(`"next": 3`, `"next": 2`), vmstate.Host, "generation 2"},
		{"twice the same", replacing(`"number": 2`, `"number": 0`), vmstate.Host, "two generations 0"},
		{"a folder that is not absolute", replacing(`"dir": "/run/qlive/vms/vm1/g2"`, `"dir": "g2"`), vmstate.Host, "folder"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := Write(dir, example()); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, FileName)
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			changed := c.change(string(text))
			if changed == string(text) {
				t.Fatalf("nothing was changed in %s", text)
			}
			if err := os.WriteFile(path, []byte(changed), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err = Read(dir)
			if vmstate.KindOf(err) != c.kind || !strings.Contains(fmt.Sprint(err), c.says) {
				t.Errorf("%s: %v", vmstate.KindOf(err), err)
			}
			if p := vmstate.ProblemOf(err); p.Remedy == "" {
				t.Error("no remedy")
			}
		})
	}
}

func replacing(old, with string) func(string) string {
	return func(s string) string { return strings.Replace(s, old, with, 1) }
}

func TestGenerations(t *testing.T) {
	v := example()
	if g, ok := v.Generation(2); !ok || g.Dir != "/run/qlive/vms/vm1/g2" {
		t.Errorf("%+v, %v", g, ok)
	}
	if _, ok := v.Generation(1); ok {
		t.Error("there is a generation 1")
	}
}

func TestMigrations(t *testing.T) {
	dir := t.TempDir()
	key := vmstate.RequestKey{Key: "0/k", Body: "{}"}
	for i := range keptMigrations + 3 {
		m := vmstate.Migration{ID: fmt.Sprintf("mig-%03d", i), VM: "vm1", Phase: vmstate.Completed, Spec: &vmstate.MigrationSpec{VM: "vm1", Key: key}}
		if err := WriteMigration(dir, m); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, migrationsDir, "mig-010.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	list, err := ReadMigrations(dir)
	if err == nil || !strings.Contains(err.Error(), "mig-010.json") {
		t.Errorf("a file that cannot be read: %v", err)
	}
	if len(list) != keptMigrations-1 || list[0].ID != "mig-003" || list[0].Spec.Key != key {
		t.Errorf("%d migrations, the first %+v", len(list), list[0])
	}
}

// Whatever stands in a record, it is read, or refused with a reason; what is read is written the same.
func FuzzRead(f *testing.F) {
	dir := f.TempDir()
	if err := Write(dir, example()); err != nil {
		f.Fatal(err)
	}
	seed, err := os.ReadFile(filepath.Join(dir, FileName))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Add([]byte(`{"format":"qlive-vm","level":1,"current":-1,"spec":{"name":"a"}}`))
	f.Add([]byte(`{"format":"qlive-vm","level":9}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, text []byte) {
		v, err := decode("vm.json", text)
		if err != nil {
			if vmstate.KindOf(err) == vmstate.Internal {
				t.Errorf("no reason: %v", err)
			}
			return
		}
		again, err := encode(file{header{formatName, formatLevel}, v})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := decode("vm.json", again); err != nil {
			t.Errorf("what was read cannot be read again: %v", err)
		}
	})
}
