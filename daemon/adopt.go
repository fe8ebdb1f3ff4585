package daemon

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"qlive/daemon/record"
	"qlive/flip"
	"qlive/flip/memory"
	"qlive/internal/foreign"
	"qlive/internal/journal"
	"qlive/internal/proc"
	"qlive/internal/qemu"
	"qlive/internal/qemu/cmdline"
	"qlive/internal/scarcity"
	"qlive/vmstate"
)

// adopt takes over a QEMU that qlive did not start, as a VM of the spec's name; with dry_run it only looks. No program is run by it, so
// allowed_binaries does not count here: it does when the guest is handed over.
func (d *Daemon) adopt(ctx context.Context, spec vmstate.VMSpec) (vmstate.VM, error) {
	leave, err := d.enter("adopt " + spec.Name)
	if err != nil {
		return vmstate.VM{}, err
	}
	defer leave()
	f, err := d.find(ctx, spec)
	if err != nil {
		return vmstate.VM{}, named(err, spec.Name)
	}
	if spec.Adopt.DryRun {
		return seen(spec, f), nil
	}
	if err := errors.Join(scarcity.Descriptors("adopt "+spec.Name, descriptorsNeeded), d.checkRoom("adopt "+spec.Name)); err != nil {
		return vmstate.VM{}, named(err, spec.Name)
	}
	if err := d.reserve(spec.Name); err != nil {
		return vmstate.VM{}, err
	}
	spec.Binary, spec.Args, spec.Dir = f.Process.Binary, f.Process.Args, f.Process.Dir
	spec.Limits.OOMScoreAdj = f.Process.OOMScoreAdj
	m := d.newMachine(spec)
	err = m.takeOver(ctx, f)
	d.mu.Lock()
	if d.machines[spec.Name] = m; err != nil {
		delete(d.machines, spec.Name)
	}
	d.mu.Unlock()
	if err != nil {
		return vmstate.VM{}, named(scarcity.Explain(err), spec.Name)
	}
	m.log.Info().Int("pid", m.now().PID).Msg("guest adopted")
	return m.now(), nil
}

// find looks at the QEMU that is meant, and lets go of its monitor again.
func (d *Daemon) find(ctx context.Context, spec vmstate.VMSpec) (*foreign.Found, error) {
	ask := spec.Adopt
	for _, m := range d.all() {
		v := m.now()
		if v.PID != 0 && (v.PID == ask.PID || ask.QMP != "" && m.monitorPath() == ask.QMP) {
			return nil, vmstate.Errorf(vmstate.Conflict, "cannot adopt process %d: it is the QEMU of the VM %s", v.PID, v.Name).With("`qlive show " + v.Name + "` shows it")
		}
	}
	p, monitor, path, err := foreign.Find(ctx, ask.PID, ask.QMP)
	if err != nil {
		return nil, err
	}
	f, err := foreign.Look(ctx, p, monitor, path, d.cfg.generationDir(spec.Name, 1))
	if err := errors.Join(err, monitor.Close()); err != nil {
		return nil, err
	}
	return f, nil
}

// seen is a QEMU that was only looked at, as the VM that it would become.
func seen(spec vmstate.VMSpec, f *foreign.Found) vmstate.VM {
	a := foreign.Assess(f, spec.Adopt.AllowPostcopy)
	v := vmstate.VM{
		Name: spec.Name, PID: a.PID, RunState: a.RunState, Machine: a.Machine, StartedAt: startedAt(f.Process.ID), Restart: spec.Restart.OrNever(),
		QEMU:     vmstate.QEMUInfo{Binary: a.Binary, Version: a.Version, Package: f.Package, Outdated: !f.Process.Unchanged()},
		RAMBytes: ramOf(a), Regions: privateRegions(a), Adoption: a,
	}
	if v.Status = vmstate.Paused; a.RunState == "running" {
		v.Status = vmstate.Running
	}
	return v
}

// startedAt is when a process began; now if that cannot be told.
func startedAt(id qemu.Identity) time.Time {
	at, err := proc.StartedAt(id.Start)
	if err != nil {
		return time.Now().UTC()
	}
	return at
}

// takeOver makes the machine what was found. Of a takeover that fails nothing is left, and the QEMU runs on as it did.
func (m *machine) takeOver(ctx context.Context, f *foreign.Found) (err error) {
	dir := m.d.cfg.vmDir(m.spec.Name)
	if err := m.d.clearLeftovers(m.spec.Name); err != nil {
		return err
	}
	g := foreignGeneration(f, m.d.cfg.generationDir(m.spec.Name, 0))
	if err := makeTextDir(g); err != nil {
		return err
	}
	defer undo(&err, func() error { return os.RemoveAll(dir) })
	if m.place, err = m.d.placeBeside(m.spec, f.Process); err != nil {
		return err
	}
	defer undo(&err, m.place.remove)
	m.facts, m.adoption = f.Facts, foreign.Assess(f, m.spec.Adopt.AllowPostcopy)
	m.objects = make(map[string]string)
	for _, b := range f.Blocks {
		m.objects[b.Block] = b.ID
	}
	if g.side.Process, err = qemu.Attach(f.Process.ID, g.log()); err != nil {
		return err
	}
	defer undo(&err, g.side.Process.Release)
	if err := m.holdMemory(f); err != nil {
		return err
	}
	defer undo(&err, m.memory.Close)
	defer undo(&err, func() error { g.hangUp(); return nil })
	if err := g.meet(ctx, m.d.answerTime, m.observers(g.number)...); err != nil {
		return err
	}
	if m.journal, err = journal.Open(record.JournalOf(dir)); err != nil {
		return err
	}
	defer undo(&err, m.journal.Close)
	return m.enter(ctx, g, f)
}

// enter writes the adopted VM down and lets it be one like any other.
func (m *machine) enter(ctx context.Context, g *generation, f *foreign.Found) error {
	if err := m.d.definitions.begin(m.definition()); err != nil {
		return err
	}
	m.mu.Lock()
	m.value.StartedAt = startedAt(f.Process.ID)
	m.names = publicNames{links: make(map[string]string)}
	m.written = []record.Generation{writtenForeign(g, f)}
	v := m.writtenLocked()
	v.Current, v.Next = g.number, g.number+1
	err := record.Write(m.d.cfg.vmDir(m.spec.Name), v)
	m.unfit = unfitAdoption(m.spec.Name, m.adoption)
	m.mu.Unlock()
	if err != nil {
		return errors.Join(err, m.d.definitions.drop(m.spec.Name))
	}
	m.d.custody.keep(m.spec.Name, m.memory, nil)
	events := g.side.Monitor.Subscribe()
	m.begin(g)
	m.d.tasks.Go(func() { m.watch(g, events) })
	if err := m.refresh(context.WithoutCancel(ctx), g); err != nil {
		m.log.Warn().Err(err).Msg("run state not read")
	}
	return nil
}

// definition is what the VM is started from once its guest has ended: by qlive, in memory of qlive's.
func (m *machine) definition() vmstate.VMSpec {
	spec := m.spec
	spec.Adopt = nil
	return spec
}

// makeTextDir makes the folder of what qlive keeps of a QEMU that is not its own, with a log that stays empty: where its output goes is its
// starter's affair.
func makeTextDir(g *generation) error {
	err := os.MkdirAll(g.dir, 0o700)
	if err == nil {
		err = os.WriteFile(g.log(), nil, 0o600)
	}
	if err != nil {
		return vmstate.Errorf(vmstate.Host, "cannot make the folder of process %d: %w", g.side.ID().PID, err).With("make room in the run directory")
	}
	return nil
}

// foreignGeneration is a QEMU that was found, as the first one of its VM. It has no consoles and no names of qlive's.
func foreignGeneration(f *foreign.Found, dir string) *generation {
	p := f.Process
	line := &cmdline.Line{Monitor: f.Monitor, Paused: true} // whether it runs is not for qlive to say
	for _, a := range p.Args {
		line.Args = append(line.Args, vmstate.Arg{Value: a})
	}
	for _, b := range f.Blocks {
		line.Regions = append(line.Regions, b.Region)
	}
	if f.Line != nil && len(f.Line.Consoles) > 0 {
		line.Warnings = append(line.Warnings, "the guest's console is where its starter has put it; from the first handoff on it is qlive's")
	}
	return &generation{
		dir: dir, foreign: true, line: line, binary: &qemu.Binary{Path: p.Binary, Real: p.Binary, ID: p.File},
		info: &qemu.Info{Binary: p.Binary, Version: f.Version, Package: f.Package},
		side: &flip.Side{Binary: p.Binary, Version: f.Version.String(), Dir: dir},
	}
}

func writtenForeign(g *generation, f *foreign.Found) record.Generation {
	return record.Generation{
		Number: g.number, Dir: g.dir, Line: g.line, Binary: *g.binary, Version: f.Version.String(), Package: f.Package, Process: f.Process.ID, Foreign: true,
	}
}

// holdMemory takes the guest's RAM into custody, if anybody but its QEMU can map it.
func (m *machine) holdMemory(f *foreign.Found) (err error) {
	if m.adoption.Mode != vmstate.ModeShared {
		m.memory, err = memory.Reopen(nil)
		return err
	}
	for _, b := range f.Blocks {
		m.identities = append(m.identities, memory.Identity{
			Name: b.Block, Backing: b.Memory.Backing, SizeBytes: b.SizeBytes, PageBytes: b.PageSize, Dev: b.Memory.Dev, Inode: b.Memory.Inode,
			FileName: filepath.Base(b.Memory.Path), Foreign: true,
		})
	}
	pid := f.Process.ID.PID
	m.memory, err = memory.Reopen(m.identities, memory.InProcess(pid), memory.InMaps(pid))
	return err
}

// monitorPath is where the VM's QEMU has its monitor; empty if it has none.
func (m *machine) monitorPath() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.current == nil {
		return ""
	}
	return m.current.line.Monitor
}
