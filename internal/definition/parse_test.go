package definition

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"qlive/vmstate"
)

func golden(t testing.TB, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// example is what testdata/level2.json holds.
func example() Definition {
	return Definition{
		Spec: vmstate.VMSpec{
			Name: "vm1", Binary: "/usr/bin/qemu-system-x86_64", Args: []string{"-machine", "q35,accel=kvm", "-drive", "file=a<b>&c.qcow2,if=virtio"},
			Memory: vmstate.MemorySpec{Backing: vmstate.Hugetlb, PageBytes: 2 << 20}, Dir: "/srv/vm1",
			Limits: vmstate.Limits{CPUPercent: 150}, Restart: vmstate.RestartOnFailure, Autostart: true,
		},
		BootID: "6ab1c5a5-6b2f-4a0e-9a6e-0a3f7f1d2c3b",
	}
}

// The files that a qlive has written are read for ever, and what is written is what is documented.
func TestLevels(t *testing.T) {
	first := example()
	first.Spec.Limits, first.Spec.Restart, first.Spec.Autostart, first.BootID = vmstate.Limits{}, vmstate.RestartNever, false, ""
	for level, want := range map[int]Definition{1: first, formatLevel: example()} {
		file := fmt.Sprintf("level%d.json", level)
		got, found, err := Parse("/x/vm1.json", golden(t, file))
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		if found != level || !reflect.DeepEqual(got, want) {
			t.Errorf("%s is read as level %d, %+v, want %+v", file, found, got, want)
		}
	}
	text, err := encode(example())
	if err != nil {
		t.Fatal(err)
	}
	if newest := golden(t, fmt.Sprintf("level%d.json", formatLevel)); string(text) != string(newest) {
		t.Errorf("written:\n%s\nwant:\n%s", text, newest)
	}
}

func TestEveryLevelHasAStep(t *testing.T) {
	if got, want := len(steps()), formatLevel-1; got != want {
		t.Errorf("%d steps lead to level %d, want %d", got, formatLevel, want)
	}
}

// The table is walked from the file's level on, in order, and what a step refuses is said with its levels.
func TestUpgrade(t *testing.T) {
	add := func(name string) step {
		return func(members map[string]json.RawMessage) error {
			members[name] = fmt.Appendf(nil, "%d", len(members))
			return nil
		}
	}
	refuse := func(map[string]json.RawMessage) error { return errors.New("no") }
	for _, test := range []struct {
		name  string
		level int
		steps []step
		want  string
	}{
		{"nothing to do", 3, []step{refuse, refuse}, `{"level":3}`},
		{"two steps", 1, []step{add("a"), add("b")}, `{"a":1,"b":2,"level":3}`},
		{"the last step", 2, []step{refuse, add("b")}, `{"b":1,"level":3}`},
		{"refused", 2, []step{add("a"), add("b"), refuse}, "it cannot be brought from format level 3 to 4: no"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := upgrade(fmt.Appendf(nil, `{"level":%d}`, test.level), test.level, test.steps)
			if err != nil {
				got = []byte(err.Error())
			}
			if string(got) != test.want {
				t.Errorf("%s, want %s", got, test.want)
			}
		})
	}
}

// What is wrong with a file is said with its line.
func TestRefused(t *testing.T) {
	good := string(golden(t, "level2.json"))
	swap := func(old, new string) string {
		if !strings.Contains(good, old) {
			t.Fatalf("the example has no %q", old)
		}
		return strings.Replace(good, old, new, 1)
	}
	for _, test := range []struct {
		name, text string
		kind       vmstate.Kind
		want       string
	}{
		{"empty", "", vmstate.Invalid, "vm1.json: it is empty"},
		{"nothing but blanks", "\n \n", vmstate.Invalid, "it is empty"},
		{"torn", good[:200], vmstate.Invalid, "line 10: unexpected end of JSON input"},
		{"no JSON", "level: 2\n", vmstate.Invalid, "line 1: invalid character 'l'"},
		{"two documents", good + "{}\n", vmstate.Invalid, "line 24: invalid character '{' after top-level value"},
		{"a comma too many", swap("true,\n", "true,,\n"), vmstate.Invalid, "line 21: invalid character ','"},
		{"another format", swap("qlive-definition", "qlive-journal"), vmstate.Invalid, "line 2: it does not say that it is a qlive-definition"},
		{"no level", swap(`"level": 2,`, ""), vmstate.Invalid, "there is no format level 0"},
		{"level in words", swap(`"level": 2`, `"level": "two"`), vmstate.Invalid, "line 3: level cannot be a string"},
		{"a newer level", swap(`"level": 2`, `"level": 3`), vmstate.Unsupported, "vm1.json: it has format level 3, and this qlive reads up to 2"},
		{"a newer level that looks otherwise", `{"format":"qlive-definition","level":9,"name":7}`, vmstate.Unsupported, "format level 9"},
		{"an older level with newer members", swap(`"level": 2`, `"level": 1`), vmstate.Invalid, `from format level 1 to 2: a definition of level 1 has no member "limits"`},
		{"a mistyped member", swap(`"autostart"`, `"autostrat"`), vmstate.Invalid, `line 21: there is no member "autostrat"`},
		{"a mistyped member of memory", swap(`"page_bytes"`, `"pages"`), vmstate.Invalid, `line 14: there is no member "pages"`},
		{"a wrong type", swap(`"autostart": true`, `"autostart": "yes"`), vmstate.Invalid, "line 21: autostart cannot be a string"},
		{"another VM's", swap(`"vm1"`, `"vm2"`), vmstate.Invalid, `line 4: it is that of "vm2", which belongs into vm2.json`},
		{"no name", swap(`"vm1"`, `"../x"`), vmstate.Invalid, `line 4: cannot call a VM "../x"`},
		{"a relative binary", swap(`"/usr/bin/`, `"bin/`), vmstate.Invalid, `line 5: binary "bin/qemu-system-x86_64" is not an absolute path`},
		{"no folder", swap(`"/srv/vm1"`, `""`), vmstate.Invalid, `line 16: dir "" is not an absolute path`},
		{"a zero byte", swap("q35", "q\\u0000"), vmstate.Invalid, "line 6: "},
		{"another backing", swap(`"hugetlb"`, `"floppy"`), vmstate.Invalid, `line 13: there is no backing "floppy"`},
		{"limits that cannot be", swap("150", "-1"), vmstate.Invalid, "line 17: cannot limit a VM to -1 percent"},
		{"another policy", swap(`"on-failure"`, `"sometimes"`), vmstate.Invalid, `line 20: cannot restart "sometimes"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, _, err := Parse("/state/vms/vm1.json", []byte(test.text))
			e, ok := errors.AsType[*vmstate.Error](err)
			if !ok || e.Kind != test.kind || e.Remedy == "" {
				t.Fatalf("%#v, want one of kind %s with a remedy", err, test.kind)
			}
			if !strings.HasPrefix(e.Detail, "cannot read the definition /state/vms/vm1.json: ") || !strings.Contains(e.Detail, test.want) {
				t.Errorf("%q does not say %q", e.Detail, test.want)
			}
		})
	}
}

func definitions() *rapid.Generator[Definition] {
	path := rapid.StringMatching(`/[^\x00]{0,20}`)
	return rapid.Custom(func(t *rapid.T) Definition {
		return Definition{
			Spec: vmstate.VMSpec{
				Name: "vm1", Binary: path.Draw(t, "binary"), Args: append([]string{}, rapid.SliceOf(rapid.StringMatching(`[^\x00]*`)).Draw(t, "args")...), Dir: path.Draw(t, "dir"),
				Memory: vmstate.MemorySpec{
					Backing:   rapid.SampledFrom([]vmstate.Backing{"", vmstate.Memfd, vmstate.Hugetlb, vmstate.Hugetlbfs}).Draw(t, "backing"),
					PageBytes: rapid.Uint64().Draw(t, "pages"), Path: path.Draw(t, "path"),
				},
				Restart:   rapid.SampledFrom([]vmstate.RestartPolicy{vmstate.RestartNever, vmstate.RestartOnFailure}).Draw(t, "restart"),
				Autostart: rapid.Bool().Draw(t, "autostart"),
			},
			BootID: rapid.String().Draw(t, "boot"),
		}
	})
}

// What is written is read again as it was.
func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := definitions().Draw(t, "definition")
		text, err := encode(want)
		if err != nil {
			t.Fatal(err)
		}
		got, level, err := Parse("vm1.json", text)
		if err != nil || level != formatLevel || !reflect.DeepEqual(got, want) {
			t.Fatalf("%+v\nis read as %+v, level %d, %v", want, got, level, err)
		}
	})
}

// Whatever can be asked for of a VM is kept: a member that is added to it and not to the format is noticed here.
func TestNothingOfASpecIsLost(t *testing.T) {
	d := Definition{Spec: vmstate.VMSpec{Name: "vm1"}}
	full(reflect.ValueOf(&d.Spec).Elem())
	d.Spec.Memory.Backing, d.Spec.Restart = vmstate.Hugetlb, vmstate.RestartOnFailure
	text, err := encode(d)
	if err != nil {
		t.Fatal(err)
	}
	if got, _, err := Parse("vm1.json", text); err != nil || !reflect.DeepEqual(got, d) {
		t.Errorf("%+v\nis read as %+v, %v", d, got, err)
	}
}

// full sets everything that is not set.
func full(v reflect.Value) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			full(v.Field(i))
		}
	case reflect.String:
		if v.Len() == 0 {
			v.SetString("/x")
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		full(v.Index(0))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int:
		v.SetInt(1)
	case reflect.Uint64:
		v.SetUint(1)
	case reflect.Pointer: // the QEMU that a VM was adopted from: it is not started like that again
	default:
		panic("a definition can hold no " + v.Kind().String())
	}
}

// Whatever a file holds, reading it ends, and what it gives can be written and read again.
func FuzzParse(f *testing.F) {
	f.Add(golden(f, "level1.json"))
	f.Add(golden(f, "level2.json"))
	f.Add(golden(f, "level2.json")[:250])
	f.Add([]byte(`{"format":"qlive-definition","level":9}`))
	f.Add([]byte(`{"format":"qlive-definition","level":1,"restart":null}`))
	f.Add([]byte(`{"format":"qlive-definition","level":2,"name":"vm1","binary":"/q","args":null,"memory":{},"dir":"/","restart":"never","autostart":false}`))
	f.Add([]byte("\xff"))
	f.Fuzz(func(t *testing.T, text []byte) {
		d, level, err := Parse("vm1.json", text)
		if err != nil {
			if kind := vmstate.KindOf(err); kind != vmstate.Invalid && kind != vmstate.Unsupported {
				t.Fatalf("error of kind %s: %v", kind, err)
			}
			return
		}
		if level < 1 || level > formatLevel || d.Spec.Name != "vm1" {
			t.Fatalf("level %d, %+v", level, d)
		}
		again, err := encode(d)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := Parse("vm1.json", again); err != nil {
			t.Fatalf("%+v cannot be read again: %v", d, err)
		}
	})
}
