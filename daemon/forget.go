package daemon

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"qlive/internal/qemu/cmdline"
	"qlive/vmstate"
)

// letRun lets go of a VM whose QEMU runs on, unharmed, and takes it off the list with its definition. What lies in the VM's folder and the QEMU
// uses (its monitor, its console) stays, in a folder of another name: it can be adopted again.
func (d *Daemon) letRun(m *machine) error {
	m.mu.Lock()
	g := m.current
	switch {
	case m.handoff != nil:
		m.mu.Unlock()
		return m.busy("let go of")
	case m.undecided:
		m.mu.Unlock()
		return m.nobodyKnows("let go of")
	case g == nil:
		m.mu.Unlock()
		return d.removeStopped(m)
	}
	m.asked.Remove = true // nobody hands it over from here on
	m.mu.Unlock()
	name := m.spec.Name
	if err := d.definitions.drop(name); err != nil {
		m.mu.Lock()
		m.asked.Remove = false
		m.mu.Unlock()
		return err
	}
	d.mu.Lock()
	d.machines[name] = nil // its name is free once its folder is out of the way
	d.mu.Unlock()
	m.letGo()
	d.custody.release(name)
	if err := m.clearFolder(g); err != nil {
		m.log.Warn().Err(err).Msg("not everything was cleared away")
	}
	d.registry.dropVM(name)
	d.mu.Lock()
	delete(d.machines, name)
	d.mu.Unlock()
	return nil
}

// clearFolder removes what qlive kept of a VM that it has let go of, or moves it aside where the QEMU uses it.
func (m *machine) clearFolder(g *generation) error {
	name := m.spec.Name
	if g.foreign {
		var err error
		if m.place.group != nil {
			err = os.Remove(m.place.group.Path())
		}
		if errors.Is(err, unix.EBUSY) { // the QEMU is in it, since before it was let go of once
			err = nil
		}
		return errors.Join(err, m.removeFiles())
	}
	aside := filepath.Join(m.d.cfg.RunDir, "forgotten", name+"-"+strconv.Itoa(g.side.Process.PID()))
	if err := os.MkdirAll(filepath.Dir(aside), 0o711); err != nil {
		return vmstate.Errorf(vmstate.Host, "cannot make %s: %w", filepath.Dir(aside), err)
	}
	dir := m.d.cfg.vmDir(name)
	if err := os.Rename(dir, aside); err != nil {
		return vmstate.Errorf(vmstate.Host, "cannot move %s aside: %w", dir, err)
	}
	var names []cmdline.Name
	for _, n := range g.line.Names {
		if rel, err := filepath.Rel(dir, n.Path); err == nil {
			n.Path = filepath.Join(aside, rel)
		}
		names = append(names, n)
	}
	return errors.Join(m.names.move(m.spec.Dir, names), os.RemoveAll(m.d.cfg.beforeDir(name)))
}
