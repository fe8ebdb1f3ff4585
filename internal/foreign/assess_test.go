package foreign

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"qlive/internal/hostram"
	"qlive/internal/qemu"
	"qlive/internal/qemu/cmdline"
	"qlive/internal/qmp"
	"qlive/vmstate"
)

const mib = 1 << 20

// found is a QEMU with one block of RAM in its own memory.
func found() *Found {
	line, err := cmdline.Rewrite([]string{"-m", "256"}, cmdline.Facts{Machine: cmdline.Machine{Name: "pc-q35-7.2", RAMID: "pc.ram"}}, cmdline.Placement{Dir: "/g", Incoming: true})
	if err != nil {
		panic(err)
	}
	return &Found{
		Process: &Process{ID: qemu.Identity{PID: 7, Start: 9}, Binary: "/usr/bin/qemu", Env: []string{"TOKEN=secret", "A=b"}},
		Monitor: "/run/q", Version: cmdline.Version{Major: 7, Minor: 2}, RunState: qmp.RunRunning, Line: line,
		Blocks: []Block{block(vmstate.Private, "")},
	}
}

func block(backing vmstate.Backing, kind string) Block {
	return Block{
		Region: cmdline.Region{ID: "pc.ram", Block: "pc.ram", SizeBytes: 256 * mib}, PageSize: 4096, Kind: kind,
		Memory: hostram.Memory{Backing: backing, Whole: true, FileBytes: 256 * mib},
	}
}

func TestAssessRegions(t *testing.T) {
	file, memfd := "memory-backend-file", "memory-backend-memfd"
	for _, tt := range []struct {
		name    string
		block   Block
		change  func(*Block)
		newer   bool // QEMU 10.0 instead of 7.2
		mode    vmstate.Mode
		ignored bool
		says    string
	}{
		{name: "private", block: block(vmstate.Private, ""), mode: vmstate.ModePostcopy, says: "private"},
		{name: "private, with an object", block: block(vmstate.Private, "memory-backend-ram"), mode: vmstate.ModePostcopy, says: "private"},
		{name: "an unlinked file, share=off", block: block(vmstate.PrivateFile, ""), change: func(b *Block) { b.Memory.Path = "/tmp/x (deleted)" }, mode: vmstate.ModePrecopy, says: "private copy"},
		{name: "a named file, share=off", block: block(vmstate.PrivateFile, file), change: func(b *Block) { b.Memory.Path = "/template" }, mode: vmstate.ModePrecopy, says: "punch holes"},
		{name: "private huge pages", block: block(vmstate.Private, file), change: func(b *Block) { b.PageSize = 2 * mib }, mode: vmstate.ModePrecopy, says: "huge pages"},
		{name: "file", block: block(vmstate.File, file), mode: vmstate.ModeShared, ignored: true, says: "very same memory"},
		{name: "hugetlbfs", block: block(vmstate.Hugetlbfs, file), change: func(b *Block) { b.PageSize = 2 * mib }, mode: vmstate.ModeShared, ignored: true},
		{name: "file, newer", block: block(vmstate.File, file), newer: true, mode: vmstate.ModeShared, ignored: true},
		{name: "memfd on 7.2", block: block(vmstate.Memfd, memfd), mode: vmstate.ModeShared, ignored: true},
		{name: "memfd on 10.0", block: block(vmstate.Memfd, memfd), newer: true, mode: vmstate.ModeShared, says: "only the way device_state"},
		{name: "shared anonymous", block: block(vmstate.Anonymous, "memory-backend-ram"), newer: true, mode: vmstate.ModeShared, says: "only the way device_state"},
		{name: "shared without an object", block: block(vmstate.Memfd, ""), mode: vmstate.ModePrecopy, says: "no object"},
		{name: "inside a file", block: block(vmstate.File, file), change: func(b *Block) { b.Memory.Offset = 4096 }, mode: vmstate.ModePrecopy, says: "byte 4096"},
		{name: "a longer file", block: block(vmstate.File, file), change: func(b *Block) { b.Memory.FileBytes *= 2 }, mode: vmstate.ModePrecopy, says: "have to be the whole file"},
		{name: "in pieces", block: block(vmstate.File, file), change: func(b *Block) { b.Memory.Whole = false }, mode: vmstate.ModeNone, says: "not one piece"},
		{name: "not found", block: block("", ""), change: func(b *Block) { b.Err = errors.New("nowhere") }, mode: vmstate.ModeNone, says: "nowhere"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := found()
			if tt.newer {
				f.Version = cmdline.Version{Major: 10}
			}
			if tt.change != nil {
				tt.change(&tt.block)
			}
			f.Blocks = []Block{tt.block}
			a := Assess(f, false)
			if r := a.Regions[0]; r.Mode != tt.mode || r.Ignored != tt.ignored || !strings.Contains(r.Why, tt.says) || a.Mode != tt.mode {
				t.Errorf("got %+v in %s", r, a.Mode)
			}
		})
	}
}

func TestAssessObstacles(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*Found)
		says   string
	}{
		{"a refused option", func(f *Found) { f.Refusals = []vmstate.Obstacle{{What: "cannot use -gdb"}} }, "-gdb"},
		{"a blocker", func(f *Found) { f.Blocked = []string{"VirtFS"} }, "VirtFS"},
		{"plugged in", func(f *Found) { f.Plugged = []string{"rng1"} }, "rng1"},
		{"a namespace", func(f *Found) { f.Process.Apart = []string{"net"} }, "net namespace"},
		{"a run state", func(f *Found) { f.RunState = "io-error" }, "io-error"},
		{"a migration", func(f *Found) { f.Migrating = true }, "somebody else"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := found()
			if a := Assess(f, false); len(a.Obstacles) != 0 {
				t.Fatalf("without anything: %+v", a.Obstacles)
			}
			tt.change(f)
			a := Assess(f, false)
			if len(a.Obstacles) != 1 || !strings.Contains(a.Obstacles[0].What, tt.says) || !strings.Contains(a.Why, "in the way") {
				t.Errorf("the obstacles are %+v; %s", a.Obstacles, a.Why)
			}
		})
	}
}

func TestAssessSaysNoSecrets(t *testing.T) {
	a := Assess(found(), true)
	if strings.Join(a.EnvNames, " ") != "TOKEN A" {
		t.Errorf("the environment is %q", a.EnvNames)
	}
	if a.NeedsAssent || !Assess(found(), false).NeedsAssent {
		t.Error("assent to postcopy is not asked for where it is needed")
	}
	f := found()
	f.Blocks = []Block{block(vmstate.PrivateFile, "memory-backend-file")}
	if !Assess(f, true).NeedsAssent {
		t.Error("consent to postcopy passes for one to precopy")
	}
}

// Whatever blocks there are: where one is moved none stays beside it, since postcopy empties the target's memory. What can neither all be moved nor all stay is
// copied, and needs room for all of it; and one that cannot be handed over holds all of them.
func TestAssessMixtures(t *testing.T) {
	nowhere := block(vmstate.File, "memory-backend-file")
	nowhere.Memory.Whole = false
	all := []Block{block(vmstate.Private, ""), block(vmstate.File, "memory-backend-file"), block(vmstate.PrivateFile, "memory-backend-file"), nowhere}
	rapid.Check(t, func(t *rapid.T) {
		f := found()
		f.Blocks = rapid.SliceOf(rapid.SampledFrom(all)).Draw(t, "blocks")
		a := Assess(f, rapid.Bool().Draw(t, "assent"))
		want, size := vmstate.ModeNone, uint64(0)
		for i, r := range a.Regions {
			if size += r.SizeBytes; i == 0 {
				want = r.Mode
			}
			if r.Mode != want {
				want = vmstate.ModePrecopy
			}
		}
		if slices.ContainsFunc(a.Regions, func(r vmstate.AdoptedRegion) bool { return r.Mode == vmstate.ModeNone }) {
			want = vmstate.ModeNone
		}
		if a.Mode != want {
			t.Errorf("%+v leads to %s, want %s", a.Regions, a.Mode, want)
		}
		if (a.PeakBytes == 0) != (a.Mode == vmstate.ModeNone) || a.Mode == vmstate.ModePrecopy && a.PeakBytes < size {
			t.Errorf("%s takes %d bytes", a.Mode, a.PeakBytes)
		}
	})
}

func TestObstaclesOf(t *testing.T) {
	facts := cmdline.Facts{Machine: cmdline.Machine{Name: "pc-q35-7.2", RAMID: "pc.ram"}}
	_, err := cmdline.Rewrite([]string{"-gdb", "tcp::1234", "-netdev", "l2tpv3,id=n"}, facts, cmdline.Placement{Dir: "/g"})
	list := obstaclesOf(err)
	if len(list) != 2 || !strings.Contains(list[0].What, "-gdb") || !strings.Contains(list[1].What, "l2tpv3") || list[1].Remedy == "" {
		t.Errorf("the obstacles are %+v", list)
	}
	if list := obstaclesOf(nil); list != nil {
		t.Errorf("nothing is %+v", list)
	}
	if list := obstaclesOf(errors.New("x")); len(list) != 1 || list[0].What != "x" {
		t.Errorf("a plain error is %+v", list)
	}
}
