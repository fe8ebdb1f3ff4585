package survey

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
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

// Dirs are the directories of a daemon.
type Dirs struct{ Run, State string }

// VM is what lies around of one VM.
type VM struct {
	Name string

	Record    *record.VM // of the run directory; nil: there is none, or RecordErr
	RecordErr error

	Journal    []Entry // of its handoffs
	Torn       bool    // the last record was cut short: it was never acted upon
	JournalErr error

	Definition *definition.Found // of the state directory; nil if there is none
	Booted     bool              // the host has booted since it was started last

	QEMUs []Process // of the VM, that live
	// SocketLeft: the QEMU that has, or had, the guest has not removed its socket, as one does that ends by itself.
	SocketLeft bool
}

// Entry is a record of the journal.
type Entry struct {
	At time.Time
	flip.Record
}

// Process is a QEMU that lives.
type Process struct {
	qemu.Identity
	Stopped bool     // by a signal
	Args    []string // its command line
}

// Look reads everything. It changes nothing. An error is that of a directory that cannot be read; what is wrong with one VM stands there.
func Look(dirs Dirs) ([]VM, error) {
	found, err := definition.List(definition.Dir(dirs.State))
	if err != nil {
		return nil, err
	}
	folders, err := os.ReadDir(filepath.Join(dirs.Run, "vms"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, vmstate.Errorf(vmstate.Host, "cannot read the run directory: %w", err)
	}
	live, err := processes()
	if err != nil {
		return nil, err
	}
	boot, _ := definition.BootID() // without it nothing is started by itself
	byName := make(map[string]*VM)
	of := func(name string) *VM {
		if byName[name] == nil {
			byName[name] = &VM{Name: name}
		}
		return byName[name]
	}
	for _, f := range found {
		vm := of(f.Name)
		vm.Definition = &f
		vm.Booted = f.Err == nil && f.Definition.Booted(boot)
	}
	for _, f := range folders {
		if f.IsDir() && vmstate.CheckName(f.Name()) == nil {
			of(f.Name()).read(filepath.Join(dirs.Run, "vms", f.Name()), live)
		}
	}
	var list []VM
	for _, vm := range byName {
		list = append(list, *vm)
	}
	slices.SortFunc(list, func(a, b VM) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}

// read reads a VM's folder in the run directory.
func (v *VM) read(dir string, live []Process) {
	r, err := record.Read(dir)
	switch {
	case err == nil:
		v.Record = &r
	case !errors.Is(err, fs.ErrNotExist):
		v.RecordErr = err
	}
	v.readJournal(record.JournalOf(dir))
	if g, ok := v.keeper(); ok && g.Line != nil {
		v.SocketLeft = qemu.BrokeOff(g.Line)
	}
	known := v.identities()
	for _, p := range live {
		if p.of(dir) || slices.Contains(known, p.Identity) {
			v.QEMUs = append(v.QEMUs, p)
		}
	}
}

// of tells whether the process has a monitor of qlive's in a VM's folder.
func (p Process) of(dir string) bool {
	return slices.ContainsFunc(p.Args, func(arg string) bool { return cmdline.MonitorBelow(dir, arg) })
}

// Living are the QEMUs that live of the VM with this folder, whatever is written down of them.
func Living(dir string) ([]Process, error) {
	live, err := processes()
	return slices.DeleteFunc(live, func(p Process) bool { return !p.of(dir) }), err
}

func (v *VM) readJournal(path string) {
	records, err := journal.Read(path)
	if v.Torn = errors.Is(err, journal.ErrTorn); !v.Torn && err != nil && !errors.Is(err, fs.ErrNotExist) {
		v.JournalErr = err
		return
	}
	for _, r := range records {
		e := Entry{At: r.At}
		if err := json.Unmarshal(r.Data, &e.Record); err != nil {
			v.JournalErr = vmstate.Errorf(vmstate.Host, "cannot read journal %s: line %d: %w", path, r.Seq+1, err).
				With("start the version of qlive that wrote it")
			return
		}
		v.Journal = append(v.Journal, e)
	}
}

// keeper is the generation that has the guest, or had it last. Where the journal and the record differ the journal is right.
func (v *VM) keeper() (record.Generation, bool) {
	if v.Record == nil {
		return record.Generation{}, false
	}
	if n := len(v.Journal); n > 0 && v.Record.Current != record.None {
		last := v.Journal[n-1]
		// Whether it lives is another question.
		e := recovery.Evidence{Phase: last.Phase, Resolve: last.Resolve, Source: recovery.Stands, Target: recovery.Stands}
		id := map[recovery.Choice]qemu.Identity{recovery.ToSource: identity(last.Source), recovery.ToTarget: identity(last.Target)}[e.Keeper(last.Undecided)]
		for _, g := range v.Record.Generations {
			if g.Process == id && id.PID != 0 {
				return g, true
			}
		}
	}
	return v.Record.Generation(v.Record.Current)
}

// identities are the processes that were written down.
func (v *VM) identities() []qemu.Identity {
	var list []qemu.Identity
	if v.Record != nil {
		for _, g := range v.Record.Generations {
			list = append(list, g.Process)
		}
	}
	if n := len(v.Journal); n > 0 {
		last := v.Journal[n-1]
		list = append(list, identity(last.Source), identity(last.Target))
	}
	return slices.DeleteFunc(list, func(id qemu.Identity) bool { return id.PID == 0 })
}

func identity(id flip.ProcessID) qemu.Identity {
	return qemu.Identity{PID: id.PID, Start: id.StartTime}
}

// processes are all that live. One that ends meanwhile is left out.
func processes() ([]Process, error) {
	pids, err := proc.PIDs()
	if err != nil {
		return nil, vmstate.Errorf(vmstate.Host, "cannot see which processes live: %w", err)
	}
	var list []Process
	for _, pid := range pids {
		line, err := proc.ReadCmdline(pid)
		if err != nil || len(line) == 0 {
			continue // a kernel thread, or gone
		}
		stat, err := proc.ReadStat(pid)
		if err != nil || stat.Ended() {
			continue
		}
		list = append(list, Process{
			Identity: qemu.Identity{PID: pid, Start: stat.Start}, Stopped: stat.State == 'T',
			Args: strings.Split(strings.TrimSuffix(string(line), "\x00"), "\x00"),
		})
	}
	return list, nil
}
