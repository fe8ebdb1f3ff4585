package daemon

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"qlive/internal/definition"
	"qlive/internal/qemu"
	"qlive/internal/room"
	"qlive/internal/scarcity"
	"qlive/vmstate"
)

// How a VM with restart on-failure is started anew: after a second, then twice as long each time, and not for ever.
const (
	firstDelay  = time.Second
	longestWait = time.Minute
	mostRetries = 5
	// calm is how long a QEMU must have run for its end to be a new story.
	calm = 10 * time.Minute
)

// nextRestart says how long to wait before a VM is started anew whose QEMU ran for so long, after it has been restarted so many times
// already, and the number of this restart. False: enough is enough.
func nextRestart(restarts int, ran time.Duration) (wait time.Duration, number int, ok bool) {
	if ran >= calm {
		restarts = 0
	}
	if restarts >= mostRetries {
		return 0, restarts, false
	}
	return min(firstDelay<<restarts, longestWait), restarts + 1, true
}

// StartStoppedVM starts a VM that has no QEMU from its definition.
func (d *Daemon) StartStoppedVM(ctx context.Context, name string) (vmstate.VM, error) {
	m, err := d.machine(name)
	if err != nil {
		return vmstate.VM{}, err
	}
	return d.startAgain(ctx, m, 0)
}

// startAgain starts a VM that has no QEMU from its definition. Restarts is how often it has been started by itself since a person last did.
// That no QEMU of it is left anywhere is made sure of as for any VM that is started, by what lies in the run directory.
func (d *Daemon) startAgain(ctx context.Context, old *machine, restarts int) (vmstate.VM, error) {
	name := old.spec.Name
	leave, err := d.enter("start " + name)
	if err != nil {
		return vmstate.VM{}, err
	}
	defer leave()
	if err := d.claim(old, "start"); err != nil {
		return vmstate.VM{}, err
	}
	why := old.show(vmstate.Starting, nil)
	if restarts == 0 {
		why = nil
	}
	m, err := d.startFrom(ctx, old, restarts, why)
	d.mu.Lock()
	if d.machines[name] = m; err != nil {
		d.machines[name] = old
	}
	d.mu.Unlock()
	if err != nil {
		err = named(err, name)
		old.show(vmstate.Broken, err)
		return vmstate.VM{}, err
	}
	m.log.Info().Int("pid", m.now().PID).Int("restarts", restarts).Msg("guest started")
	d.definitions.change(name, func(def *definition.Definition) { def.BootID = d.definitions.bootID })
	d.definitions.look() // a person may have mended it
	return m.now(), nil
}

// startFrom starts the VM's definition as a new machine; why is what the one before ended of, if it is started anew by itself.
func (d *Daemon) startFrom(ctx context.Context, old *machine, restarts int, why *vmstate.Problem) (*machine, error) {
	spec, err := d.defined(old.spec.Name)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(scarcity.Descriptors("start "+spec.Name, descriptorsNeeded), d.checkRoom("start "+spec.Name)); err != nil {
		return nil, err
	}
	binary, err := qemu.Admit(spec.Binary, d.cfg.AllowedBinaries)
	if err != nil {
		return nil, err
	}
	m := d.newMachine(spec)
	m.restarts = restarts
	if why != nil {
		m.whyAgain = "it was started anew at " + time.Now().UTC().Format(time.RFC3339) + ": " + why.Detail
	}
	m.logs, m.consoles = old.keepLogs()
	return m, scarcity.Explain(room.Explain(d.cfg.RunDir, d.start(ctx, m, binary)))
}

// claim takes a VM that has no QEMU for one caller, who either puts a machine into its place or takes it off the list. What is what the caller
// is about to do.
func (d *Daemon) claim(m *machine, what string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	name := m.spec.Name
	if m.current != nil || m.undecided || m.asked.Remove {
		e := vmstate.Errorf(vmstate.Conflict, "cannot %s %s: it is %s", what, name, m.value.Status).With("`qlive show " + name + "` tells more")
		e.VM = name
		return e
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.machines[name] != m {
		e := vmstate.Errorf(vmstate.Conflict, "cannot %s %s: it is being started or removed", what, name).With("look again in a moment: `qlive show " + name + "`")
		e.VM = name
		return e
	}
	d.machines[name] = nil
	m.stopWaitingLocked()
	return nil
}

// show publishes a VM that has no QEMU, and gives what it ended of before.
func (m *machine) show(status vmstate.Status, why error) (before *vmstate.Problem) {
	m.mu.Lock()
	defer m.mu.Unlock()
	before = m.ending
	m.status, m.ending = status, nil
	if why != nil {
		m.ending = vmstate.ProblemOf(why)
	}
	m.publishLocked()
	return before
}

// planRestartLocked decides, for a VM whose QEMU has ended, whether it is started anew. Ran is how long the QEMU did.
func (m *machine) planRestartLocked(ran time.Duration) {
	if m.asked.Remove || m.status != vmstate.Broken || m.spec.Restart != vmstate.RestartOnFailure || m.ending == nil {
		return
	}
	why := *m.ending
	defer func() { m.ending = &why }()
	wait, number, ok := nextRestart(m.restarts, ran)
	if !ok {
		why.Remedy = "it has been started anew too often already: see QEMU's log, and start it with `qlive start " + m.spec.Name + "`"
		return
	}
	at := time.Now().UTC().Add(wait)
	why.Remedy = "it is started anew at " + at.Format(time.RFC3339) + "; see QEMU's log"
	stop := make(chan struct{})
	m.status, m.restartAt, m.noRestart = vmstate.Starting, &at, stop
	m.d.tasks.Go(func() { m.restart(wait, number, stop) })
}

// restart waits, and starts the VM anew unless somebody else does something with it meanwhile.
func (m *machine) restart(wait time.Duration, number int, stop <-chan struct{}) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-stop:
		return
	case <-m.d.running.Done():
		return
	}
	_, err := m.d.startAgain(m.d.running, m, number)
	if err == nil {
		return
	}
	m.log.Warn().Err(err).Int("restarts", number).Msg("not started anew")
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.status == vmstate.Broken && m.restartAt == nil && m.d.running.Err() == nil { // it was tried, and could not be
		m.restarts = number
		m.planRestartLocked(0)
		m.publishLocked()
	}
}

// stopWaitingLocked ends the waiting for a restart.
func (m *machine) stopWaitingLocked() {
	if m.noRestart != nil {
		close(m.noRestart)
	}
	m.noRestart, m.restartAt = nil, nil
}

// keepLogs puts what QEMU and the guest said last where a new start does not clear it away, in place of what was kept before: it is wanted
// most when a VM is started because its QEMU failed.
func (m *machine) keepLogs() (logs, consoles []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	dir := m.d.cfg.beforeDir(m.spec.Name)
	keep := func(paths []string, name string) []string {
		if len(paths) == 0 {
			return nil
		}
		from, to := paths[len(paths)-1], filepath.Join(dir, name)
		if from == to {
			return []string{to}
		}
		err := os.MkdirAll(dir, 0o700)
		if err == nil {
			err = os.Rename(from, to)
		}
		if err != nil {
			if !errors.Is(err, fs.ErrNotExist) {
				m.log.Warn().Err(err).Msg("log not kept")
			}
			return nil
		}
		return []string{to}
	}
	m.logs, m.consoles = keep(m.logs, "qemu.log"), keep(m.consoles, "console")
	return m.logs, m.consoles
}
