package daemon

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"qlive/internal/definition"
	"qlive/internal/room"
	"qlive/vmstate"
)

// definitions are those of the state directory, and what could not be written there so far.
type definitions struct {
	*definition.Store
	condition *condition
	lock      *os.File
	bootID    string

	mu   sync.Mutex
	late map[string]func(*definition.Definition) // changes that could not be written, by VM
}

// The subjects of health that are about definitions.
const (
	stateDir      = "state directory"
	unreadable    = "unreadable definitions"
	notWrittenYet = "definitions not written"
)

// openDefinitions takes the state directory for this daemon alone. A directory that cannot be used is said in the daemon's health: guests
// that run must not go without a daemon because of it. Only another daemon in it is an error.
func openDefinitions(dir string, c *condition) (*definitions, error) {
	d := &definitions{condition: c, late: make(map[string]func(*definition.Definition))}
	err := os.MkdirAll(dir, 0o755)
	if err != nil {
		err = room.Explain(filepath.Dir(dir), vmstate.Errorf(vmstate.Host, "cannot make the state directory: %w", err))
	}
	store, unusable := definition.Open(dir)
	d.Store = store
	if err == nil {
		err = unusable
	}
	if err == nil {
		if d.lock, err = lockDir(dir, "state_dir"); vmstate.KindOf(err) == vmstate.Conflict {
			return nil, err
		}
	}
	if err == nil {
		err = d.Upgrade()
	}
	var unknown error
	if d.bootID, unknown = definition.BootID(); unknown != nil {
		err = errors.Join(err, vmstate.Errorf(vmstate.Host, "cannot tell whether the host has booted, so nothing is started by itself: %w", unknown))
	}
	c.set(stateDir, err)
	return d, nil
}

func (d *definitions) close() error {
	if d.lock == nil {
		return nil
	}
	return d.lock.Close()
}

// begin writes down a VM that is about to be started for the first time. Without it nothing is started.
func (d *definitions) begin(spec vmstate.VMSpec) error {
	return d.Put(definition.Definition{Spec: spec, BootID: d.bootID})
}

// change changes a VM's definition, if it has one: now, or when there is room again.
func (d *definitions) change(vm string, f func(*definition.Definition)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if before := d.late[vm]; before != nil {
		next := f
		f = func(def *definition.Definition) { before(def); next(def) }
	}
	d.late[vm] = f
	d.writeLocked()
}

// retry writes what could not be written before.
func (d *definitions) retry() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.late) > 0 {
		d.writeLocked()
	}
}

func (d *definitions) writeLocked() {
	var errs []error
	for _, vm := range slices.Sorted(maps.Keys(d.late)) {
		if err := d.Update(vm, d.late[vm]); err != nil {
			errs = append(errs, err)
			continue
		}
		delete(d.late, vm)
	}
	d.condition.set(notWrittenYet, errs...)
}

// drop removes a VM's definition.
func (d *definitions) drop(vm string) error {
	d.mu.Lock()
	delete(d.late, vm)
	d.mu.Unlock()
	err := d.Remove(vm)
	d.look()
	return err
}

// look says in the daemon's health which files cannot be read, and gives all.
func (d *definitions) look() []definition.Found {
	list, err := d.All()
	errs := []error{err}
	for _, f := range list {
		errs = append(errs, f.Err)
	}
	d.condition.set(unreadable, errs...)
	return list
}

// listDefined shows the VMs of the state directory that the run directory knows nothing of, stopped. The names of those that it knows have been
// taken before.
func (d *Daemon) listDefined() {
	for _, f := range d.definitions.look() {
		m := d.stoppedMachine(f)
		d.mu.Lock()
		_, known := d.machines[f.Name]
		if !known {
			d.machines[f.Name] = m
		}
		d.mu.Unlock()
		if !known {
			m.mu.Lock()
			m.publishLocked()
			m.mu.Unlock()
		}
	}
}

// stoppedMachine is a VM that has no QEMU.
func (d *Daemon) stoppedMachine(f definition.Found) *machine {
	spec := f.Definition.Spec
	spec.Name = f.Name
	m := d.newMachine(spec)
	m.status, m.value.RunState = vmstate.Stopped, "none"
	m.value.QEMU.Binary = spec.Binary
	close(m.settled)
	if f.Err != nil {
		m.status, m.ending = vmstate.Broken, vmstate.ProblemOf(named(f.Err, f.Name))
	}
	return m
}

// followDefinitions lets every VM keep to what its definition says, and starts those that are to be after a boot of the host. It comes after
// the run directory's VMs have been taken up: one that has a QEMU is not started, whether that can be reached or not.
func (d *Daemon) followDefinitions() {
	var boot []*machine
	for _, f := range d.definitions.look() {
		d.mu.Lock()
		m := d.machines[f.Name]
		d.mu.Unlock()
		if m == nil || f.Err != nil {
			continue
		}
		spec := f.Definition.Spec
		m.mu.Lock()
		if m.spec.Restart.OrNever() != spec.Restart || m.spec.Autostart != spec.Autostart {
			m.spec.Restart, m.spec.Autostart = spec.Restart, spec.Autostart
			m.publishLocked()
		}
		if m.current == nil && !m.undecided && spec.Autostart && f.Definition.Booted(d.definitions.bootID) {
			boot = append(boot, m)
		}
		m.mu.Unlock()
	}
	if len(boot) > 0 {
		d.tasks.Go(func() { d.autostart(boot) })
	}
}

// autostart starts VMs, one after the other, and leaves it at the first try: why one does not start is said in its state.
func (d *Daemon) autostart(list []*machine) {
	for _, m := range list {
		if d.running.Err() != nil {
			return
		}
		if _, err := d.startAgain(d.running, m, 0); err != nil {
			m.log.Warn().Err(err).Msg("not started after the host's boot")
		}
	}
}

// defined reads what a VM is to be started from.
func (d *Daemon) defined(name string) (vmstate.VMSpec, error) {
	def, err := d.definitions.Get(name)
	if errors.Is(err, fs.ErrNotExist) {
		err = vmstate.Errorf(vmstate.NotFound, "cannot start %s: its definition %s is gone", name, d.definitions.Path(name)).
			With("remove the VM with `qlive rm " + name + "`, and define it again with `qlive run`")
	}
	return def.Spec, err
}
