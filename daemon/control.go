package daemon

import (
	"context"
	"errors"

	"qlive/internal/qmp"
	"qlive/vmstate"
)

// control does something with the guest that a handoff must not be in the middle of.
func (m *machine) control(ctx context.Context, what string, do func(context.Context, *qmp.Client) error) (vmstate.VM, error) {
	if m.switching() {
		return vmstate.VM{}, m.busy(what)
	}
	if _, err := m.obeys(what); err != nil { // whoever holds the gate may be waiting for a QEMU that does not answer
		return vmstate.VM{}, err
	}
	m.gate.Lock()
	defer m.gate.Unlock()
	g, err := m.obeys(what)
	if err != nil {
		return vmstate.VM{}, err
	}
	if err := do(ctx, g.side.Monitor); err != nil {
		return vmstate.VM{}, &vmstate.Error{Kind: vmstate.QEMU, VM: m.spec.Name, Detail: "cannot " + what + " " + m.spec.Name + ": " + err.Error(), Err: err}
	}
	if err := m.refresh(ctx, g); err != nil && !errors.Is(err, qmp.ErrClosed) {
		return vmstate.VM{}, err
	}
	return m.now(), nil
}

// obeys is the QEMU that has the guest, if it is known and answers.
func (m *machine) obeys(what string) (*generation, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.undecided:
		return nil, m.nobodyKnows(what)
	case m.mute != nil:
		return nil, m.mute
	case m.current == nil:
		return nil, m.notThere(what)
	}
	return m.current, nil
}

func (m *machine) now() vmstate.VM {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.value
}

func (m *machine) busy(what string) error {
	e := vmstate.Errorf(vmstate.Busy, "cannot %s %s: it is being handed over", what, m.spec.Name).With("ask again in a moment")
	e.VM = m.spec.Name
	return e
}

// nobodyKnows is the answer while it is not known which of two QEMUs runs the guest.
func (m *machine) nobodyKnows(what string) error {
	e := vmstate.Errorf(vmstate.Lost, "cannot %s %s: after a failed handoff it is not known which of two QEMUs runs it", what, m.spec.Name).
		With("look at both QEMUs and decide: `qlive resolve " + m.spec.Name + "`")
	e.VM = m.spec.Name
	return e
}

func (m *machine) notThere(what string) error {
	e := vmstate.Errorf(vmstate.Conflict, "cannot %s %s: it has no QEMU", what, m.spec.Name).
		With("start it with `qlive start " + m.spec.Name + "`, or remove it with `qlive rm " + m.spec.Name + "`")
	e.VM = m.spec.Name
	return e
}
