package daemon

import (
	"context"
	"errors"
	"time"

	"qlive/daemon/record"
	"qlive/daemon/survey"
	"qlive/flip/memory"
	"qlive/internal/qemu"
	"qlive/restapi"
	"qlive/vmstate"
)

// RemoveVM ends a VM and takes it off the list: with RemovePowerdown once the guest has powered off, with RemoveKill now. That it is to go is
// written down first: a daemon that dies before it has gone leaves the rest to the next one. With RemoveForget it is taken off the list and runs on.
func (d *Daemon) RemoveVM(ctx context.Context, name string, how restapi.Removal) error {
	m, err := d.machine(name)
	if err != nil {
		return err
	}
	if how == restapi.RemoveForget {
		return d.letRun(m)
	}
	g, err := m.ask(record.Asked{Remove: true, Kill: how == restapi.RemoveKill}, "remove")
	switch {
	case err != nil:
		return err
	case g == nil:
		return d.removeStopped(m)
	case how == restapi.RemoveKill:
		return m.kill(ctx)
	}
	if err := g.side.Monitor.SystemPowerdown(ctx); err != nil {
		m.unask()
		return err
	}
	return nil
}

// KillVM ends a VM's QEMU now. The VM stays on the list, stopped.
func (d *Daemon) KillVM(ctx context.Context, name string) (vmstate.VM, error) {
	m, err := d.machine(name)
	if err != nil {
		return vmstate.VM{}, err
	}
	g, err := m.ask(record.Asked{Kill: true}, "stop")
	if err == nil && g == nil {
		err = m.notThere("stop")
	}
	if err == nil {
		err = m.kill(ctx)
	}
	return m.now(), err
}

// ask notes what is to become of the VM, and gives the QEMU that is to be ended, if it has one.
func (m *machine) ask(wish record.Asked, what string) (*generation, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.handoff != nil:
		return nil, m.busy(what)
	case m.current == nil:
		return nil, nil
	case m.undecided && !wish.Kill:
		return nil, m.nobodyKnows("power down")
	case m.mute != nil && !wish.Kill:
		return nil, m.mute
	}
	m.asked.Kill = m.asked.Kill || wish.Kill
	m.asked.Remove = m.asked.Remove || wish.Remove
	m.noteLocked()
	return m.current, nil
}

// unask takes a removal back that could not be begun.
func (m *machine) unask() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.current != nil {
		m.asked = record.Asked{}
		m.noteLocked()
	}
}

// kill ends all QEMUs of the VM, and returns once that is seen.
func (m *machine) kill(ctx context.Context) error {
	m.mu.Lock()
	doomed := []*generation{m.current, m.stray}
	m.mu.Unlock()
	if f := m.d.failpoints; f != nil {
		if err := f.Hit(ctx, "daemon.kill"); err != nil {
			return err
		}
	}
	for _, g := range doomed {
		if g == nil {
			continue
		}
		if err := g.side.Process.Kill(); err != nil {
			return err
		}
	}
	select {
	case <-m.settled:
		return nil
	case <-ctx.Done():
		return vmstate.Errorf(vmstate.Timeout, "cannot see the QEMU of %s end: %w", m.spec.Name, context.Cause(ctx))
	}
}

// carryOut ends QEMUs that an earlier daemon was asked to kill, and that it has not seen dead.
func (m *machine) carryOut() {
	m.mu.Lock()
	asked, there := m.asked, m.current != nil
	m.mu.Unlock()
	if !asked.Kill || !there {
		return
	}
	m.log.Info().Bool("remove", asked.Remove).Msg("QEMU ended, as an earlier daemon was asked to")
	ctx, cancel := context.WithTimeout(m.d.running, answerSoon)
	defer cancel()
	if err := m.kill(ctx); err != nil {
		m.log.Warn().Err(err).Msg("QEMU not ended yet")
	}
}

// removeStopped takes a VM that has no QEMU off the list.
func (d *Daemon) removeStopped(m *machine) error {
	name := m.spec.Name
	if err := d.claim(m, "remove"); err != nil {
		return err
	}
	err := d.noneLeft(name, "remove")
	if kind := vmstate.KindOf(err); err != nil && kind != vmstate.Conflict { // what cannot be read can be removed, if nothing of it lives
		if live, looked := survey.Living(d.cfg.vmDir(name)); looked == nil && len(live) == 0 {
			err = nil
		}
	}
	if err == nil {
		err = d.definitions.drop(name)
	}
	if err != nil {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.machines[name] = m
		return err
	}
	d.forget(m)
	return nil
}

// endedBefore shows a VM whose QEMU had ended before the daemon did, or was never let run.
func (m *machine) endedBefore() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.status == "" {
		e := vmstate.Errorf(vmstate.Cancelled, "cannot start %s: the daemon ended while it was being started", m.spec.Name).
			With("remove it with `qlive rm " + m.spec.Name + "`, and start it again")
		e.VM = m.spec.Name
		m.status, m.ending = vmstate.Broken, vmstate.ProblemOf(e)
	}
	if m.status == vmstate.Starting { // it was to be started anew
		m.status = vmstate.Broken
		m.planRestartLocked(0)
	}
	if set, err := memory.Reopen(m.identities, memory.ByPath); err == nil { // a file on hugetlbfs that outlives its QEMU
		m.memory = set
	}
	m.reopenNext(memory.ByPath)
	m.goneLocked()
}

// endedUnseen is what becomes of a VM whose QEMU ended while no daemon looked.
func (m *machine) endedUnseen(why error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.asked.Kill {
		why = nil // as asked
	}
	g, known := (&record.VM{Generations: m.written}).Generation(m.lastKeeper)
	if known {
		m.status = vmstate.Stopped
		if qemu.BrokeOff(g.Line) && why == nil && !m.asked.Kill {
			why = vmstate.Errorf(vmstate.QEMU, "cannot go on with %s: its QEMU, process %d, was killed or crashed while no daemon was watching", m.spec.Name, g.Process.PID).
				With("see QEMU's log; start it again with `qlive start " + m.spec.Name + "`")
		}
		m.names = foundNames(m.spec.Dir, m.d.cfg.vmDir(m.spec.Name), g.Line.Names)
		m.names.remove()
	}
	if why != nil {
		m.status, m.ending = vmstate.Broken, vmstate.ProblemOf(named(why, m.spec.Name))
	}
	if m.status == "" {
		m.status = vmstate.Stopped
	}
	m.planRestartLocked(time.Since(m.value.StartedAt))
	m.goneLocked()
}

// goneLocked lets go of what a VM without a QEMU does not need, and shows it.
func (m *machine) goneLocked() {
	m.adoption, m.value.Adoption = nil, nil
	m.d.custody.release(m.spec.Name)
	if err := errors.Join(m.memory.Close(), m.next.set.Close(), m.journal.Close(), m.place.remove()); err != nil {
		m.log.Warn().Err(err).Msg("not everything was let go of")
	}
	m.next = nextRAM{}
	m.written, m.lastKeeper = nil, record.None
	close(m.settled)
	if m.asked.Remove {
		m.d.forget(m)
		return
	}
	m.asked = record.Asked{}
	m.noteLocked()
	m.publishLocked()
}
