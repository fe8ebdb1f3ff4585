package daemon

import (
	"context"

	"qlive/daemon/record"
	"qlive/flip"
	"qlive/flip/recovery"
	"qlive/vmstate"
)

// Undecided tells what is known of a VM whose last handoff has failed, and what can be decided of it.
func (d *Daemon) Undecided(ctx context.Context, name string) (vmstate.Decision, error) {
	m, err := d.machine(name)
	if err != nil {
		return vmstate.Decision{}, err
	}
	a, f, err := m.open(ctx)
	if err != nil {
		return vmstate.Decision{}, err
	}
	defer m.resolving.Unlock()
	look := flip.Look(ctx, m.recovery(a, m.lastMigration(), f))
	v := vmstate.Decision{
		VM: name, Migration: look.Last.Migration, Error: look.Last.Error, Stranger: look.Evidence.Stranger,
		Source: witness(look.Last.Source, f.source, look.Evidence.Source), Target: witness(look.Last.Target, f.target, look.Evidence.Target),
	}
	for _, c := range look.Choices {
		v.Choices = append(v.Choices, vmstate.Choice{To: string(c.To), Allowed: c.Allowed, Why: c.Why})
	}
	return v, nil
}

// witness is what is seen of one of two QEMUs.
func witness(id flip.ProcessID, g *generation, sight recovery.Sight) vmstate.Witness {
	w := vmstate.Witness{PID: id.PID, Seen: string(sight)}
	if g != nil {
		w.Binary, w.Version, w.Log = g.binary.Path, g.side.Version, g.log()
	}
	return w
}

// ResolveVM does what a person has decided of a VM whose last handoff has failed.
func (d *Daemon) ResolveVM(ctx context.Context, name, to string) (vmstate.VM, error) {
	leave, err := d.enter("resolve " + name)
	if err != nil {
		return vmstate.VM{}, err
	}
	defer leave()
	m, err := d.machine(name)
	if err != nil {
		return vmstate.VM{}, err
	}
	a, f, err := m.open(ctx)
	if err != nil {
		return vmstate.VM{}, err
	}
	defer m.resolving.Unlock()
	m.log.Warn().Str("to", to).Msg("a person has decided")
	m.setDiscarded(to == string(recovery.Discard)) // before either is killed: their watchers see that first
	out := flip.Resolve(ctx, m.recovery(a, m.lastMigration(), f), recovery.Choice(to))
	if out.Err != nil && out.Keeper == nil {
		m.setDiscarded(false)
		return vmstate.VM{}, named(out.Err, name)
	}
	if keeper := f.has(out.Keeper); keeper != nil {
		m.putInPlace(context.WithoutCancel(ctx), out, f)
		return m.now(), nil
	}
	if out.Undecided {
		return vmstate.VM{}, m.nobodyKnows("resolve")
	}
	select {
	case <-m.settled:
	case <-ctx.Done():
	}
	return m.now(), nil
}

func (m *machine) setDiscarded(yes bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.asked.Kill = yes
}

// open finds the two QEMUs of a VM whose last handoff has failed, and calls those that have not answered. Unless there is an error the caller must
// unlock m.resolving.
func (m *machine) open(ctx context.Context) (*attempt, *found, error) {
	m.resolving.Lock()
	a, f, err := m.lastFailed()
	if err != nil {
		m.resolving.Unlock()
		return nil, nil, err
	}
	for _, g := range f.alive {
		if err := m.call(ctx, g, answerSoon); err != nil {
			m.log.Warn().Err(err).Msg("QEMU does not answer")
		}
	}
	return a, f, nil
}

func (m *machine) lastFailed() (*attempt, *found, error) {
	m.mu.Lock()
	f := &found{}
	for _, g := range []*generation{m.current, m.stray} {
		if !g.dead() {
			f.alive = append(f.alive, g)
		}
	}
	busy := m.handoff != nil
	m.mu.Unlock()
	if busy {
		return nil, nil, m.busy("resolve")
	}
	if len(f.alive) == 0 {
		return nil, nil, m.notThere("resolve")
	}
	history, err := readHistory(record.JournalOf(m.d.cfg.vmDir(m.spec.Name)))
	if err != nil {
		return nil, nil, named(err, m.spec.Name)
	}
	if n := len(history); n == 0 || !history[n-1].last().Open() {
		e := vmstate.Errorf(vmstate.Conflict, "cannot resolve %s: there is nothing to be decided", m.spec.Name).
			With("only a VM whose last handoff has failed can be resolved")
		e.VM = m.spec.Name
		return nil, nil, e
	}
	a := history[len(history)-1]
	f.sides(a)
	return a, f, nil
}

// lastMigration is the VM's last migration as it is shown.
func (m *machine) lastMigration() vmstate.Migration {
	v, _ := m.d.Snapshot().Migration(m.now().Migration)
	return v
}
