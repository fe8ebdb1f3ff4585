package daemon

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"qlive/vmstate"
)

func TestChooseAdopted(t *testing.T) {
	private := &vmstate.Adoption{Mode: vmstate.ModePostcopy}
	shared := &vmstate.Adoption{Mode: vmstate.ModeShared}
	copied := &vmstate.Adoption{Mode: vmstate.ModePrecopy, Why: "it is a private copy"}
	for _, tt := range []struct {
		name    string
		a       *vmstate.Adoption
		allowed bool
		asked   vmstate.Mode
		want    vmstate.Mode // empty: it says nothing, or refuses
		says    string       // of the refusal
	}{
		{"not adopted", nil, false, vmstate.ModeAuto, "", ""},
		{"another mode", private, false, vmstate.ModeCPR, "", ""},
		{"shared, auto", shared, false, vmstate.ModeAuto, vmstate.ModeShared, ""},
		{"shared by name", shared, false, vmstate.ModeShared, vmstate.ModeShared, ""},
		{"shared, postcopy by name", shared, true, vmstate.ModePostcopy, "", "not private"},
		{"private, auto", private, false, vmstate.ModeAuto, "", "does not choose that"},
		{"private, auto, allowed", private, true, vmstate.ModeAuto, vmstate.ModePostcopy, ""},
		{"private, by name", private, false, vmstate.ModePostcopy, vmstate.ModePostcopy, ""},
		{"private, shared by name", private, true, vmstate.ModeShared, "", "no other can map it"},
		{"private, precopy by name", private, false, vmstate.ModePrecopy, vmstate.ModePrecopy, ""},
		{"shared, precopy by name", shared, false, vmstate.ModePrecopy, vmstate.ModePrecopy, ""}, // refused without another memory
		{"copied, auto, whatever was allowed", copied, true, vmstate.ModeAuto, "", "can only be copied: it is a private copy"},
		{"copied, shared by name", copied, true, vmstate.ModeShared, "", "can only be copied"},
		{"copied, postcopy by name", copied, true, vmstate.ModePostcopy, "", "can only be copied"},
		{"copied, precopy by name", copied, false, vmstate.ModePrecopy, vmstate.ModePrecopy, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			spec := vmstate.VMSpec{Name: "vm1", Adopt: &vmstate.AdoptSpec{AllowPostcopy: tt.allowed}}
			choice, err := chooseAdopted(spec, tt.a, tt.asked)
			if choice.Mode != tt.want || (err != nil) != (tt.says != "") || err != nil && !strings.Contains(err.Error(), tt.says) {
				t.Errorf("got %+v, %v", choice, err)
			}
			if err != nil && (vmstate.KindOf(err) != vmstate.Unsupported || vmstate.ProblemOf(err).Remedy == "") {
				t.Errorf("the refusal is %+v", vmstate.ProblemOf(err))
			}
		})
	}
}

func TestUnfitAdoption(t *testing.T) {
	lasting := vmstate.Obstacle{What: "cannot use -gdb", Remedy: "leave it out", Lasting: true}
	passing := vmstate.Obstacle{What: "somebody else migrates the guest"}
	for _, tt := range []struct {
		name string
		a    *vmstate.Adoption
		says []string
	}{
		{"not adopted", nil, nil},
		{"nothing in the way", &vmstate.Adoption{Mode: vmstate.ModeShared}, nil},
		{"what passes", &vmstate.Adoption{Mode: vmstate.ModeShared, Obstacles: []vmstate.Obstacle{passing}}, nil},
		{"what stays", &vmstate.Adoption{Mode: vmstate.ModeShared, Obstacles: []vmstate.Obstacle{passing, lasting}}, []string{"-gdb"}},
		{"no mode", &vmstate.Adoption{Mode: vmstate.ModeNone, Why: "its pages are huge"}, []string{"huge"}},
		{"both", &vmstate.Adoption{Mode: vmstate.ModeNone, Why: "its pages are huge", Obstacles: []vmstate.Obstacle{lasting}}, []string{"huge", "-gdb"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := unfitAdoption("vm1", tt.a)
			if (err == nil) != (tt.says == nil) {
				t.Fatalf("got %v", err)
			}
			for _, word := range tt.says {
				if p := vmstate.ProblemOf(err); !strings.Contains(p.Detail, word) || p.Remedy == "" || p.VM != "vm1" {
					t.Errorf("the refusal is %+v, without %q", p, word)
				}
			}
		})
	}
}

func TestPidIn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pid")
	if n := pidIn(path); n != 0 {
		t.Errorf("no file says %d", n)
	}
	for text, want := range map[string]int{"4711\n": 4711, "17": 17, "": 0, "x": 0} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if n := pidIn(path); n != want {
			t.Errorf("%q says %d", text, n)
		}
	}
}
