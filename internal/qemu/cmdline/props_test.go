package cmdline_test

import (
	"encoding/json"
	"strings"
	"testing"

	"qlive/internal/qemu/cmdline"
)

func TestSizes(t *testing.T) {
	for text, want := range map[string]uint64{
		"512": 512 << 20, "4G": 4 << 30, "4g": 4 << 30, "262144k": 256 << 20, "1.5G": 3 << 29, "0.25T": 1 << 38, "1024B": 1024, "0x10": 16 << 20,
		"1P": 1 << 50, "1E": 1 << 60,
	} {
		if got, err := cmdline.ParseSize(text, 1<<20); err != nil || got != want {
			t.Errorf("%s is %d, want %d; %v", text, got, want, err)
		}
	}
	for _, text := range []string{"", "G", "-1", "1.5", "1GB", "1 G", "0x", "0x-1", "1e3", "16E", "999999999999999999999999G", ".", "١"} {
		if got, err := cmdline.ParseSize(text, 1<<20); err == nil {
			t.Errorf("%q is %d", text, got)
		}
	}
}

func TestProps(t *testing.T) {
	tests := map[string]struct {
		value, implied, key, set string
		got, changed, removed    string
	}{
		"implied":          {"q35,accel=kvm", "type", "type", "pc-q35-7.2", "q35", "pc-q35-7.2,accel=kvm", "accel=kvm"},
		"spelt out":        {"type=q35,accel=kvm", "type", "type", "pc", "q35", "type=pc,accel=kvm", "accel=kvm"},
		"added":            {"accel=kvm", "type", "type", "pc", "", "accel=kvm,type=pc", "accel=kvm"},
		"comma in value":   {"a,path=/x,,y,b=1", "", "path", "p,q", "/x,y", "a,path=p,,q,b=1", "a,b=1"},
		"comma in implied": {"/x,,y,server", "path", "path", "/z", "/x,y", "/z,server", "server"},
		"flag":             {"unix:/x,server,nowait", "path", "wait", "off", "off", "unix:/x,server,wait=off", "unix:/x,server"},
		"last one wins":    {"a=1,a=2", "", "a", "3", "2", "a=3,a=3", ""},
		"equals in value":  {"a=b=c", "", "a", "d", "b=c", "a=d", ""},
		"json":             {`{"a": "x,y", "b":1.50}`, "", "a", "z", "x,y", `{"a":"z","b":1.50}`, `{"b":1.50}`},
		"json boolean":     {`{"share":false,"b":[1, 2]}`, "", "share", "on", "off", `{"share":true,"b":[1, 2]}`, `{"b":[1, 2]}`},
		"json inside":      {`{"addr":{"type":"unix"}}`, "", "addr.type", "x", "unix", `{"addr":{"type":"unix"},"addr.type":"x"}`, `{"addr":{"type":"unix"}}`},
		"json escape":      {`{"a":"x"}`, "", "a", `"\`, "x", `{"a":"\"\\"}`, `{}`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, changed, removed, err := cmdline.Props(tt.value, tt.implied, tt.key, tt.set)
			if err != nil || got != tt.got || changed != tt.changed || removed != tt.removed {
				t.Errorf("got %q, changed %q, removed %q; %v\nwant %q, %q, %q", got, changed, removed, err, tt.got, tt.changed, tt.removed)
			}
		})
	}
}

// FuzzProps reads and writes values: nothing that is not changed may move.
func FuzzProps(f *testing.F) {
	for _, s := range []string{"", ",", ",,", "q35,accel=kvm", "a=,b", "a,,b=c,,,d", `{"a":[{"b":"c"}],"d":null}`, `{"a":1}}`, "{", "{}"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, value string) {
		got, err := cmdline.SameProps(value, "type")
		if err != nil {
			return
		}
		if strings.HasPrefix(value, "{") {
			var a, b any
			if json.Unmarshal([]byte(value), &a) != nil || json.Unmarshal([]byte(got), &b) != nil {
				t.Errorf("%q became %q, and one of them is no JSON", value, got)
			}
			return
		}
		if got != value && got+"," != value {
			t.Errorf("%q became %q", value, got)
		}
	})
}
