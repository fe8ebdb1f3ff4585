package definition

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"qlive/vmstate"
)

func newStore(t *testing.T) *Store {
	t.Helper()
	s, err := Open(filepath.Join(t.TempDir(), "state"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func put(t *testing.T, s *Store, d Definition) {
	t.Helper()
	if err := s.Put(d); err != nil {
		t.Fatal(err)
	}
}

func named(name string) Definition {
	d := example()
	d.Spec.Name = name
	return d
}

func TestStore(t *testing.T) {
	s := newStore(t)
	if _, err := s.Get("vm1"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("before it was put: %v", err)
	}
	put(t, s, named("vm2"))
	put(t, s, named("vm1"))
	changed := named("vm1")
	changed.Spec.Binary = "/opt/qemu"
	put(t, s, changed)
	if got, err := s.Get("vm1"); err != nil || !reflect.DeepEqual(got, changed) {
		t.Errorf("%+v, %v", got, err)
	}
	info, err := os.Stat(s.Path("vm1"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	for _, name := range []string{"README", ".vm3.json.17.tmp", "Vm4.json"} {
		if err := os.WriteFile(filepath.Join(s.dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	list, err := s.All()
	if err != nil || len(list) != 2 || list[0].Name != "vm1" || list[1].Name != "vm2" || list[1].Err != nil || list[1].Level != formatLevel {
		t.Errorf("%+v, %v", list, err)
	}
	for range 2 { // what is gone already is no error
		if err := s.Remove("vm1"); err != nil {
			t.Error(err)
		}
	}
	if err := s.Update("vm1", func(*Definition) { t.Error("a VM without a definition gets one") }); err != nil {
		t.Error(err)
	}
	if err := s.Update("vm2", func(d *Definition) { d.BootID = "now" }); err != nil {
		t.Error(err)
	}
	if d, err := s.Get("vm2"); err != nil || d.BootID != "now" {
		t.Errorf("%+v, %v", d, err)
	}
}

func TestOpenClearsWhatACrashLeft(t *testing.T) {
	s := newStore(t)
	torn := filepath.Join(s.dir, ".vm1.json.17.tmp")
	if err := os.WriteFile(torn, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(filepath.Dir(s.dir)); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(torn); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the temporary file is still there: %v", err)
	}
}

// A file that this qlive cannot read is nobody's to write over; to remove it is a person's decision.
func TestUnreadableIsKept(t *testing.T) {
	newer := `{"format":"qlive-definition","level":99}`
	for name, text := range map[string]string{"newer": newer, "torn": "{"} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			if err := os.WriteFile(s.Path("vm1"), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := s.Put(named("vm1")); err == nil {
				t.Error("it is written over")
			}
			if err := s.Update("vm1", func(*Definition) {}); err == nil {
				t.Error("it is changed")
			}
			if err := s.Upgrade(); err != nil {
				t.Error(err)
			}
			list, err := s.All()
			if err != nil || len(list) != 1 || list[0].Err == nil || list[0].Path != s.Path("vm1") {
				t.Errorf("%+v, %v", list, err)
			}
			if got, err := os.ReadFile(s.Path("vm1")); err != nil || string(got) != text {
				t.Errorf("it holds %q now, %v", got, err)
			}
			if err := s.Remove("vm1"); err != nil {
				t.Error(err)
			}
			put(t, s, named("vm1"))
		})
	}
}

// An older file is replaced by a newer one, and is as it was if that cannot be written.
func TestStoreUpgrade(t *testing.T) {
	s := newStore(t)
	old := golden(t, "level1.json")
	if err := os.WriteFile(s.Path("vm1"), old, 0o600); err != nil {
		t.Fatal(err)
	}
	blocked := s.dir + ".blocked"
	if err := os.Rename(s.dir, blocked); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/proc/self/fdinfo", s.dir); err != nil { // nothing can be made there, by root neither
		t.Fatal(err)
	}
	if err := s.write(named("vm1")); vmstate.KindOf(err) != vmstate.Host {
		t.Errorf("written where nothing can be: %v", err)
	}
	if err := errors.Join(os.Remove(s.dir), os.Rename(blocked, s.dir)); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(s.Path("vm1")); err != nil || string(text) != string(old) {
		t.Fatalf("the old file holds %s, %v", text, err)
	}
	if err := s.Upgrade(); err != nil {
		t.Fatal(err)
	}
	list, err := s.All()
	if err != nil || len(list) != 1 || list[0].Level != formatLevel || list[0].Err != nil {
		t.Fatalf("%+v, %v", list, err)
	}
	if d := list[0].Definition; d.Spec.Restart != vmstate.RestartNever || d.Spec.Autostart || d.BootID != "" || d.Spec.Dir != "/srv/vm1" {
		t.Errorf("%+v", d)
	}
}

func TestPutRefusesWhatItCouldNotRead(t *testing.T) {
	s := newStore(t)
	for name, spoil := range map[string]func(*Definition){
		"a relative binary": func(d *Definition) { d.Spec.Binary = "qemu" },
		"no name":           func(d *Definition) { d.Spec.Name = "a/b" },
		"another policy":    func(d *Definition) { d.Spec.Restart = "always" },
	} {
		t.Run(name, func(t *testing.T) {
			d := example()
			spoil(&d)
			if err := s.Put(d); err == nil || !strings.HasPrefix(err.Error(), "cannot ") {
				t.Errorf("%v", err)
			}
			if entries, err := os.ReadDir(s.dir); err != nil || len(entries) != 0 {
				t.Errorf("%v, %v", entries, err)
			}
		})
	}
}

func TestReadsRegularFilesOnly(t *testing.T) {
	s := newStore(t)
	if err := os.Mkdir(s.Path("vm1"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/dev/zero", s.Path("vm2")); err != nil {
		t.Fatal(err)
	}
	list, err := s.All()
	if err != nil || len(list) != 2 {
		t.Fatalf("%+v, %v", list, err)
	}
	for _, f := range list {
		if vmstate.KindOf(f.Err) != vmstate.Invalid || !strings.Contains(f.Err.Error(), "regular file") {
			t.Errorf("%s: %v", f.Name, f.Err)
		}
	}
}
