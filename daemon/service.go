package daemon

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"qlive/flip"
	"qlive/fsview"
	"qlive/internal/qemu"
	"qlive/internal/qmp"
	"qlive/internal/scarcity"
	"qlive/restapi"
	"qlive/vmstate"
)

// The daemon is what both faces show and command.
var (
	_ restapi.Service = (*Daemon)(nil)
	_ fsview.Source   = (*Daemon)(nil)
)

// Snapshot is the newest state. It never blocks and is never nil.
func (d *Daemon) Snapshot() *vmstate.Snapshot { return d.registry.Snapshot() }

// Subscribe is a place in the stream of events after number after.
func (d *Daemon) Subscribe(after uint64) vmstate.Subscription { return d.registry.Subscribe(after) }

// Metrics serves Prometheus.
func (d *Daemon) Metrics() http.Handler { return d.metrics.handler() }

// StartVM starts a VM and returns when QEMU runs and answers.
func (d *Daemon) StartVM(ctx context.Context, spec vmstate.VMSpec) (vmstate.VM, error) {
	if err := vmstate.CheckName(spec.Name); err != nil {
		return vmstate.VM{}, err
	}
	if spec.Dir != "" && !filepath.IsAbs(spec.Dir) {
		return vmstate.VM{}, vmstate.Errorf(vmstate.Invalid, "cannot run %s in %q: it is not an absolute path", spec.Name, spec.Dir)
	}
	if spec.Adopt != nil {
		return d.adopt(ctx, spec)
	}
	if spec.Dir == "" {
		spec.Dir = "/"
	}
	if err := scarcity.Descriptors("start "+spec.Name, descriptorsNeeded); err != nil {
		return vmstate.VM{}, named(err, spec.Name)
	}
	binary, err := qemu.Admit(spec.Binary, d.cfg.AllowedBinaries)
	if err != nil {
		return vmstate.VM{}, named(err, spec.Name)
	}
	leave, err := d.enter("start " + spec.Name)
	if err != nil {
		return vmstate.VM{}, err
	}
	defer leave()
	if err := d.checkRoom("start " + spec.Name); err != nil {
		return vmstate.VM{}, named(err, spec.Name)
	}
	if err := d.reserve(spec.Name); err != nil {
		return vmstate.VM{}, err
	}
	m := d.newMachine(spec)
	if err := d.startFirst(ctx, m, binary); err != nil {
		d.mu.Lock()
		delete(d.machines, spec.Name)
		d.mu.Unlock()
		return vmstate.VM{}, named(scarcity.Explain(err), spec.Name)
	}
	d.mu.Lock()
	d.machines[spec.Name] = m
	d.mu.Unlock()
	m.log.Info().Int("pid", m.now().PID).Msg("guest started")
	return m.now(), nil
}

func (d *Daemon) start(ctx context.Context, m *machine, binary *qemu.Binary) (err error) {
	dir := d.cfg.vmDir(m.spec.Name)
	if err := d.clearLeftovers(m.spec.Name); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return vmstate.Errorf(vmstate.Host, "cannot make the folder of %s: %w", m.spec.Name, err).With("make room in the run directory")
	}
	defer undo(&err, func() error { return os.RemoveAll(dir) })
	if m.place, err = d.place(m.spec); err != nil {
		return err
	}
	defer undo(&err, m.place.remove)
	info, err := d.prober.Probe(ctx, binary)
	if err != nil {
		return err
	}
	if m.facts, err = qemu.Learn(m.spec.Args, m.spec.Dir, info); err != nil {
		return err
	}
	m.facts.PageBytes = m.spec.Memory.PageBytes
	return m.launch(ctx, binary)
}

// named puts the VM's name into an error that has none.
func named(err error, vm string) error {
	p := vmstate.ProblemOf(err)
	if p.VM != "" {
		return err
	}
	return &vmstate.Error{Kind: p.Kind(), Step: p.Step, VM: vm, Detail: p.Detail, Remedy: p.Remedy, Words: p.QEMU, Err: err}
}

// atStep says at which step of a handoff an error came.
func atStep(step string, err error) error {
	p := vmstate.ProblemOf(err)
	return &vmstate.Error{Kind: p.Kind(), Step: step, VM: p.VM, Detail: p.Detail, Remedy: p.Remedy, Words: p.QEMU, Err: err}
}

// enter lets a request begin something that the daemon's end must wait for, unless that has come.
func (d *Daemon) enter(what string) (leave func(), err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closing {
		return nil, vmstate.Errorf(vmstate.Unavailable, "cannot %s: the daemon is stopping", what)
	}
	d.requests.Add(1)
	return d.requests.Done, nil
}

// reserve takes a name, so that nobody else starts a VM of it.
func (d *Daemon) reserve(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.failpoints != nil {
		if err := d.failpoints.Hit(context.Background(), "daemon.reserve"); err != nil { // with the lock held: a daemon that is stuck
			return err
		}
	}
	if m, taken := d.machines[name]; taken {
		e := vmstate.Errorf(vmstate.Conflict, "cannot start %s: there is a VM of that name", name)
		e.VM = name
		if m == nil {
			return e.With("it is being started")
		}
		return e.With("choose another name, or remove it first: `qlive rm " + name + "`")
	}
	d.machines[name] = nil
	return nil
}

// machine finds a VM.
func (d *Daemon) machine(name string) (*machine, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	m, known := d.machines[name]
	if known && m == nil {
		e := vmstate.Errorf(vmstate.Unavailable, "cannot reach %s: it is being started or taken up", name).With("ask again in a moment")
		e.VM = name
		return nil, e
	}
	if m == nil {
		e := vmstate.Errorf(vmstate.NotFound, "cannot find a VM called %q", name).With("`qlive list` shows the VMs")
		return nil, e
	}
	return m, nil
}

// PauseVM stops the guest's vCPUs.
func (d *Daemon) PauseVM(ctx context.Context, name string) (vmstate.VM, error) {
	return d.control(ctx, name, "pause", func(ctx context.Context, q *qmp.Client) error { return q.Stop(ctx) })
}

// ResumeVM lets them go on.
func (d *Daemon) ResumeVM(ctx context.Context, name string) (vmstate.VM, error) {
	return d.control(ctx, name, "resume", func(ctx context.Context, q *qmp.Client) error { return q.Cont(ctx) })
}

// ResetVM presses the reset button.
func (d *Daemon) ResetVM(ctx context.Context, name string) (vmstate.VM, error) {
	return d.control(ctx, name, "reset", func(ctx context.Context, q *qmp.Client) error { return q.SystemReset(ctx) })
}

// PowerdownVM presses the power button; whether the guest obeys is its own business.
func (d *Daemon) PowerdownVM(ctx context.Context, name string) (vmstate.VM, error) {
	return d.control(ctx, name, "power down", func(ctx context.Context, q *qmp.Client) error { return q.SystemPowerdown(ctx) })
}

func (d *Daemon) control(ctx context.Context, name, what string, do func(context.Context, *qmp.Client) error) (vmstate.VM, error) {
	m, err := d.machine(name)
	if err != nil {
		return vmstate.VM{}, err
	}
	return m.control(ctx, what, do)
}

// Migrate accepts a handoff; it runs on by itself.
func (d *Daemon) Migrate(ctx context.Context, spec vmstate.MigrationSpec) (vmstate.Migration, error) {
	m, err := d.machine(spec.VM)
	if err != nil {
		return vmstate.Migration{}, err
	}
	if spec.Binary == "" {
		spec.Binary = m.now().QEMU.Binary
	}
	if spec.Memory != nil {
		if err := checkRehousing(spec); err != nil {
			return vmstate.Migration{}, atStep("plan", named(err, spec.VM))
		}
		if spec.Mode != vmstate.ModePrecopy {
			spec.Mode = vmstate.ModeShared
		}
	}
	spec.TimeoutS = spec.Timeout(m.now().RAMBytes)
	if spec.MaxPauseMS == 0 {
		spec.MaxPauseMS = vmstate.DefaultMaxPauseMS
	}
	if err := scarcity.Descriptors("hand "+spec.VM+" over", descriptorsNeeded); err != nil {
		return vmstate.Migration{}, named(err, spec.VM)
	}
	binary, err := qemu.Admit(spec.Binary, d.cfg.AllowedBinaries)
	if err != nil {
		return vmstate.Migration{}, atStep("plan", named(err, spec.VM))
	}
	leave, err := d.enter("hand over " + spec.VM)
	if err != nil {
		return vmstate.Migration{}, err
	}
	defer leave()
	if err := d.checkRoom("hand over " + spec.VM); err != nil {
		return vmstate.Migration{}, atStep("plan", named(err, spec.VM))
	}
	mode, err := m.chooseMode(ctx, spec.Mode)
	if err == nil {
		err = flip.CheckWay(spec.VM, mode.Mode, spec.Way)
	}
	if err != nil {
		return vmstate.Migration{}, atStep("plan", named(err, spec.VM))
	}
	return m.migrate(spec, mode, newID(), binary)
}

// newID names a migration: by the time, so that they sort, and by chance, so that they differ.
func newID() string {
	var b [3]byte
	_, _ = rand.Read(b[:]) // it never fails: crypto/rand ends the program instead
	return "mig-" + time.Now().UTC().Format("20060102-150405") + "-" + hex.EncodeToString(b[:])
}

// RollbackVM accepts a handoff to the binary that the VM came from.
func (d *Daemon) RollbackVM(ctx context.Context, name string) (vmstate.Migration, error) {
	m, err := d.machine(name)
	if err != nil {
		return vmstate.Migration{}, err
	}
	m.mu.Lock()
	var back string
	if n := len(m.past); n > 0 {
		back = m.past[n-1]
	}
	m.mu.Unlock()
	if back == "" {
		e := vmstate.Errorf(vmstate.Conflict, "cannot roll %s back: it runs in the QEMU that it was started in", name).
			With("name the QEMU to hand it over to: `qlive migrate " + name + " --to PATH`")
		e.VM = name
		return vmstate.Migration{}, e
	}
	return d.Migrate(ctx, vmstate.MigrationSpec{VM: name, Binary: back})
}

// ContinueMigration lets a migration that holds in prepared go on.
func (d *Daemon) ContinueMigration(_ context.Context, id string) (vmstate.Migration, error) {
	h, err := d.handoff(id)
	if err == nil {
		err = h.Continue()
	}
	if err != nil {
		return vmstate.Migration{}, err
	}
	return h.Migration(), nil
}

// CancelMigration asks for the end of a migration that has not begun to switch.
func (d *Daemon) CancelMigration(_ context.Context, id string) (vmstate.Migration, error) {
	h, err := d.handoff(id)
	if err == nil {
		err = h.Cancel("as asked")
	}
	if err != nil {
		return vmstate.Migration{}, err
	}
	return h.Migration(), nil
}

// Trace is where the time of a migration went, in Chrome's trace format.
func (d *Daemon) Trace(id string) ([]byte, error) {
	h, err := d.handoff(id)
	if err != nil {
		return nil, err
	}
	return h.Trace()
}

// Control obeys a command that was written to a VM's ctl file.
func (d *Daemon) Control(ctx context.Context, vm string, cmd fsview.Command, _ fsview.Caller) error {
	var err error
	switch cmd.Verb {
	case fsview.Migrate:
		_, err = d.Migrate(ctx, vmstate.MigrationSpec{VM: vm, Binary: cmd.Binary})
	case fsview.Rollback:
		_, err = d.RollbackVM(ctx, vm)
	case fsview.Cancel, fsview.Continue:
		err = d.controlMigration(ctx, vm, cmd.Verb)
	case fsview.Pause:
		_, err = d.PauseVM(ctx, vm)
	case fsview.Resume:
		_, err = d.ResumeVM(ctx, vm)
	case fsview.Reset:
		_, err = d.ResetVM(ctx, vm)
	case fsview.Start:
		_, err = d.StartStoppedVM(ctx, vm)
	case fsview.Powerdown:
		_, err = d.PowerdownVM(ctx, vm)
	default:
		err = vmstate.Errorf(vmstate.Invalid, "cannot obey %q", cmd.Verb)
	}
	return err
}

func (d *Daemon) controlMigration(ctx context.Context, vm string, verb fsview.Verb) error {
	m, err := d.machine(vm)
	if err != nil {
		return err
	}
	id := m.now().Migration
	if id == "" {
		e := vmstate.Errorf(vmstate.Conflict, "cannot %s: %s is not being handed over", verb, vm).With("hand it over first: write migrate")
		e.VM = vm
		return e
	}
	if verb == fsview.Continue {
		_, err = d.ContinueMigration(ctx, id)
	} else {
		_, err = d.CancelMigration(ctx, id)
	}
	return err
}
