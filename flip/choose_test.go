package flip

import (
	"strings"
	"testing"

	"qlive/vmstate"
)

func TestChooseMode(t *testing.T) {
	own := []RAM{{ID: "ram0", Shared: true, Held: true}}
	fit := Facts{Source: "10.0.2", Target: "11.1.3", AuxRAMShare: true, RAM: own}
	with := func(change func(*Facts)) Facts { f := fit; change(&f); return f }
	old := with(func(f *Facts) { f.Source, f.AuxRAMShare = "7.2.22", false })
	foreign := with(func(f *Facts) { f.RAM = []RAM{{ID: "ram0", Shared: true}} })
	private := with(func(f *Facts) { f.RAM = []RAM{{ID: "pc.ram"}} })
	tests := map[string]struct {
		asked vmstate.Mode
		facts Facts
		want  vmstate.Mode // empty if it is refused
		says  []string     // in the reason, or the refusal
	}{
		"auto takes shared":                 {vmstate.ModeAuto, fit, vmstate.ModeShared, []string{"first"}},
		"nothing asked is auto":             {"", old, vmstate.ModeShared, nil},
		"auto, not held":                    {vmstate.ModeAuto, foreign, vmstate.ModeCPR, []string{"does not hold the memory of backend ram0"}},
		"auto, not held, and too old":       {vmstate.ModeAuto, with(func(f *Facts) { f.RAM, f.Source = foreign.RAM, "9.2.0" }), "", []string{"does not hold", "QEMU 9.2.0", "postcopy"}},
		"auto, private":                     {vmstate.ModeAuto, private, "", []string{"pc.ram is private", "no share=on", "postcopy", "precopy"}},
		"shared by name":                    {vmstate.ModeShared, Facts{}, vmstate.ModeShared, []string{"by name"}},
		"cpr by name":                       {vmstate.ModeCPR, fit, vmstate.ModeCPR, []string{"by name"}},
		"cpr, target not known yet":         {vmstate.ModeCPR, with(func(f *Facts) { f.Target = "" }), vmstate.ModeCPR, nil},
		"cpr, source too old":               {vmstate.ModeCPR, old, "", []string{"the guest is in QEMU 7.2.22", "aux-ram-share=on"}},
		"cpr, target too old":               {vmstate.ModeCPR, with(func(f *Facts) { f.Target = "9.2.4" }), "", []string{"the target is QEMU 9.2.4"}},
		"cpr, not started for it":           {vmstate.ModeCPR, with(func(f *Facts) { f.AuxRAMShare = false }), "", []string{"without -machine …,aux-ram-share=on"}},
		"cpr, a backend that is not shared": {vmstate.ModeCPR, private, "", []string{"pc.ram is private"}},
		"precopy by name":                   {vmstate.ModePrecopy, private, vmstate.ModePrecopy, []string{"by name"}},
		"magic":                             {"magic", fit, "", []string{"magic"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := ChooseMode("vm1", test.asked, test.facts)
			said := got.Why
			if err != nil {
				p := vmstate.ProblemOf(err)
				said = p.Detail + " " + p.Remedy
				if vmstate.KindOf(err) != vmstate.Unsupported {
					t.Errorf("kind %s", vmstate.KindOf(err))
				}
				got.Mode = ""
			}
			if got.Mode != test.want {
				t.Errorf("mode %q, want %q: %s", got.Mode, test.want, said)
			}
			for _, words := range test.says {
				if !strings.Contains(said, words) {
					t.Errorf("%q does not say %q", said, words)
				}
			}
		})
	}
}

func TestCheckWay(t *testing.T) {
	tests := map[string]struct {
		mode  vmstate.Mode
		asked vmstate.Way
		fits  bool
	}{
		"any in shared":       {vmstate.ModeShared, vmstate.WayLive, true},
		"none in cpr":         {vmstate.ModeCPR, "", true},
		"auto in cpr":         {vmstate.ModeCPR, vmstate.WayAuto, true},
		"another in cpr":      {vmstate.ModeCPR, vmstate.WayDeviceState, false},
		"another in postcopy": {vmstate.ModePostcopy, vmstate.WayStopFirst, false},
		"its own in precopy":  {vmstate.ModePrecopy, vmstate.WayLive, false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			err := CheckWay("vm1", test.mode, test.asked)
			if (err == nil) != test.fits || err != nil && vmstate.KindOf(err) != vmstate.Invalid {
				t.Error(err)
			}
		})
	}
}

func TestBefore(t *testing.T) {
	for version, want := range map[string]bool{"9.2.4": true, "10.0.13": true, "10.1.0": false, "10.1": false, "11.0.0": false, "": false, "newest": false} {
		if got := before(10, 1, version); got != want {
			t.Errorf("before(10, 1, %q) is %v", version, got)
		}
	}
}
