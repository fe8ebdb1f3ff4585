package survey

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"qlive/daemon/record"
	"qlive/flip"
	"qlive/flip/recovery"
	"qlive/internal/definition"
	"qlive/internal/journal"
	"qlive/internal/proc"
	"qlive/internal/qemu"
	"qlive/internal/qemu/cmdline"
	"qlive/vmstate"
)

var update = flag.Bool("update", false, "write the golden files anew")

func at(minute int) time.Time { return time.Date(2026, 1, 2, 3, minute, 5, 0, time.UTC) }

func qemuProcess(pid int) Process {
	return Process{Identity: qemu.Identity{PID: pid, Start: uint64(pid) * 100}}
}

func id(pid int) flip.ProcessID { return flip.ProcessID{PID: pid, StartTime: uint64(pid) * 100} }

func generation(number, pid int) record.Generation {
	return record.Generation{
		Number: number, Dir: fmt.Sprintf("/run/qlive/vms/vm1/g%d", number), Line: &cmdline.Line{}, Version: "7.2.22",
		Binary: qemu.Binary{Path: "/usr/bin/qemu-system-x86_64"}, Process: qemuProcess(pid).Identity,
	}
}

// recorded is a VM that runs in process 812.
func recorded() *record.VM {
	return &record.VM{
		Spec: vmstate.VMSpec{Name: "vm1"}, StartedAt: at(0), Generations: []record.Generation{generation(0, 812)}, Current: 0, Next: 1,
	}
}

func onFailure() *record.VM {
	r := recorded()
	r.Spec.Restart = vmstate.RestartOnFailure
	return r
}

// twice is a VM with the target of a handoff written down too, and the source as the QEMU that has the guest.
func twice() *record.VM {
	r := recorded()
	r.Put(generation(1, 977))
	return r
}

// handoff is the journal of one that has come so far.
func handoff(phase vmstate.Phase, way vmstate.Way) []Entry {
	r := flip.Record{Migration: "mig-1", VM: "vm1", Phase: phase, Source: id(812), Target: id(977), RunState: "running", Way: way}
	if phase == vmstate.Planned {
		r.Target = flip.ProcessID{}
	}
	return []Entry{{At: at(5), Record: r}}
}

func found(err error, spec vmstate.VMSpec) *definition.Found {
	return &definition.Found{Name: "vm1", Definition: definition.Definition{Spec: spec}, Err: err}
}

// cases is every sort of thing that can be found.
func cases() []struct {
	name string
	vm   VM
} {
	both, source, target := []Process{qemuProcess(812), qemuProcess(977)}, []Process{qemuProcess(812)}, []Process{qemuProcess(977)}
	list := []struct {
		name string
		vm   VM
	}{
		{"runs", VM{Record: recorded(), QEMUs: source}},
		{"runs, and a signal has stopped it", VM{Record: recorded(), QEMUs: []Process{{Identity: qemuProcess(812).Identity, Stopped: true}}}},
		{"runs after a handoff", VM{Record: recorded(), QEMUs: source, Journal: handoff(vmstate.RolledBack, vmstate.WayDeviceState)}},
		{"another process has its number", VM{Record: recorded(), QEMUs: []Process{{Identity: qemu.Identity{PID: 812, Start: 1}}}}},
		{"its QEMU has ended by itself", VM{Record: recorded()}},
		{"its QEMU was killed", VM{Record: recorded(), SocketLeft: true}},
		{"its QEMU was killed, on-failure", VM{Record: onFailure(), SocketLeft: true}},
		{"its QEMU is dead, autostart after a boot", VM{Record: recorded(), SocketLeft: true, Booted: true, Definition: found(nil, vmstate.VMSpec{Autostart: true})}},
		{"the journal is ahead of the record", VM{Record: twice(), QEMUs: target, Journal: handoff(vmstate.Completed, vmstate.WayDeviceState)}},
		{"was to be started anew", VM{Record: &record.VM{Current: record.None, Ended: vmstate.Starting}}},
		{"stopped", VM{Record: &record.VM{Current: record.None, Ended: vmstate.Stopped}}},
		{"failed", VM{Record: &record.VM{Current: record.None, Ended: vmstate.Broken, Ending: &vmstate.Problem{Detail: "cannot go on with vm1: QEMU was killed"}}}},
		{"was being started", VM{Record: &record.VM{Current: record.None}}},
		{"was being started, and its QEMU lives", VM{Record: &record.VM{Current: record.None}, QEMUs: source}},
		{"a QEMU of which nothing is written down", VM{QEMUs: source}},
		{"files alone", VM{}},
		{"defined", VM{Definition: found(nil, vmstate.VMSpec{})}},
		{"defined, autostart", VM{Definition: found(nil, vmstate.VMSpec{Autostart: true})}},
		{"defined, autostart, after a boot", VM{Definition: found(nil, vmstate.VMSpec{Autostart: true}), Booted: true}},
		{"a definition that cannot be read", VM{Definition: found(vmstate.Errorf(vmstate.Invalid, "cannot read the definition /s/vm1.json: line 3").With("correct it"), vmstate.VMSpec{})}},
		{"a record that cannot be read", VM{RecordErr: vmstate.Errorf(vmstate.Unsupported, "cannot read vm.json: it has format level 9").With("start the newer qlive"), QEMUs: source}},
		{"a journal that cannot be read", VM{Record: recorded(), JournalErr: vmstate.Errorf(vmstate.Host, "cannot read journal j: line 3").With("find out"), QEMUs: both}},
		{"a torn journal", VM{Record: recorded(), QEMUs: source, Torn: true}},
		{"failed handoff, out of silence", VM{Record: recorded(), QEMUs: both, Journal: failed(func(r *flip.Record) { r.Undecided, r.Silent = true, true })}},
		{"failed handoff, resolved and not done", VM{Record: recorded(), QEMUs: both, Journal: failed(func(r *flip.Record) { r.Undecided, r.Resolve = true, recovery.ToSource })}},
		{"failed handoff, resolved", VM{Record: recorded(), QEMUs: source, Journal: failed(func(r *flip.Record) { r.Resolve, r.Settled = recovery.ToSource, true })}},
		{"failed handoff, for a person", VM{Record: recorded(), QEMUs: both, Journal: failed(func(r *flip.Record) { r.Undecided = true })}},
	}
	for _, phase := range []vmstate.Phase{vmstate.Planned, vmstate.Prepared, vmstate.Switching, vmstate.Committing, vmstate.Committed, vmstate.Draining} {
		for name, qemus := range map[string][]Process{"both live": both, "the source lives": source, "the target lives": target, "both are dead": nil} {
			if phase == vmstate.Planned && name != "the source lives" && name != "both are dead" {
				continue
			}
			list = append(list, struct {
				name string
				vm   VM
			}{string(phase) + ", " + name, VM{Record: recorded(), QEMUs: qemus, Journal: handoff(phase, vmstate.WayDeviceState)}})
		}
	}
	return list
}

func failed(how func(*flip.Record)) []Entry {
	list := handoff(vmstate.Failed, vmstate.WayDeviceState)
	how(&list[0].Record)
	return list
}

// Each sort of thing has a sentence that a person understands: they are in testdata, to be read.
func TestFindings(t *testing.T) {
	texts := make(map[string]string)
	var names []string
	for _, c := range cases() {
		c.vm.Name = "vm1"
		var text strings.Builder
		fmt.Fprintf(&text, "-- %s --\n", c.name)
		for _, f := range c.vm.Findings() {
			fmt.Fprintf(&text, "%-4s %s\n", f.Level, f.Detail)
			if f.Remedy != "" {
				fmt.Fprintf(&text, "     → %s\n", f.Remedy)
			}
		}
		names, texts[c.name] = append(names, c.name), text.String()
	}
	var got strings.Builder
	slices.Sort(names)
	for _, name := range names {
		got.WriteString(texts[name])
	}
	const golden = "testdata/findings.txt"
	if *update {
		if err := os.WriteFile(golden, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got.String() != string(want) {
		t.Errorf("the findings differ from %s (-update writes it anew):\n%s", golden, got.String())
	}
}

// What lies in real directories is found, and the process that runs this test serves as a QEMU that lives.
func TestLook(t *testing.T) {
	dirs := Dirs{Run: filepath.Join(t.TempDir(), "run"), State: filepath.Join(t.TempDir(), "state")}
	if vms, err := Look(dirs); err != nil || len(vms) != 0 {
		t.Fatalf("%+v, %v", vms, err)
	}
	stat, err := proc.ReadStat(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	me := qemu.Identity{PID: os.Getpid(), Start: stat.Start}
	folder := func(name string) string {
		dir := filepath.Join(dirs.Run, "vms", name)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	write := func(name string, id qemu.Identity) string {
		dir := folder(name)
		g := generation(0, 0)
		g.Process, g.Dir = id, filepath.Join(dir, "g0")
		vm := record.VM{Spec: vmstate.VMSpec{Name: name}, Generations: []record.Generation{g}, Current: 0, Next: 1}
		if err := record.Write(dir, vm); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	write("alive", me)
	write("dead", qemu.Identity{PID: me.PID, Start: me.Start + 1})
	dir := write("torn", me)
	j, err := journal.Open(filepath.Join(dir, "journal"))
	if err == nil {
		err = errors.Join(j.Append(flip.Record{Migration: "mig-1", Phase: vmstate.Prepared, Source: flip.ProcessID{PID: me.PID, StartTime: me.Start}}),
			j.Append(flip.Record{Migration: "mig-1", Phase: vmstate.Switching}), j.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "journal"))
	if err != nil {
		t.Fatal(err)
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.WriteFile(filepath.Join(dir, "journal"), text[:len(text)-20], 0o600))
	must(os.WriteFile(filepath.Join(write("changed", me), "journal"), []byte(strings.Replace(string(text), "prepared", "planned!", 1)), 0o600))
	must(os.WriteFile(filepath.Join(folder("newer"), record.FileName), []byte(`{"format":"qlive-vm","level":99}`), 0o600))
	folder("Not-a-name")
	store, err := definition.Open(dirs.State)
	must(err)
	must(store.Put(definition.Definition{Spec: vmstate.VMSpec{Name: "defined", Binary: "/q", Dir: "/", Autostart: true}, BootID: "another"}))
	must(store.Put(definition.Definition{Spec: vmstate.VMSpec{Name: "alive", Binary: "/q", Dir: "/"}}))
	must(os.WriteFile(store.Path("spoilt"), []byte("{\n\n]"), 0o600))

	vms, err := Look(dirs)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][]string{
		"alive":   {"ok it is in process"},
		"changed": {"fail who runs its guest cannot be told", "fail cannot read journal", "line 2"},
		"dead":    {"ok its QEMU, process", "has ended by itself"},
		"defined": {"ok it is stopped, and the host has booted"},
		"newer":   {"fail who runs its guest cannot be told", "fail cannot read", "format level 99"},
		"spoilt":  {"fail cannot read the definition", "line 3"},
		"torn":    {"warn handoff mig-1 was cut off in prepared", "ok the last record of its journal was cut short"},
	}
	for _, vm := range vms {
		var said strings.Builder
		for _, f := range vm.Findings() {
			fmt.Fprintf(&said, "%s %s\n", f.Level, f.Detail)
		}
		for _, words := range want[vm.Name] {
			if !strings.Contains(said.String(), words) {
				t.Errorf("%s: %q is not said in:\n%s", vm.Name, words, said.String())
			}
		}
		if want[vm.Name] == nil {
			t.Errorf("%s is found: %s", vm.Name, said.String())
		}
		delete(want, vm.Name)
	}
	if len(want) > 0 {
		t.Errorf("not found: %v", want)
	}
}
