package daemon

import (
	"sync"
	"time"

	"qlive/internal/qemu"
	"qlive/vmstate"
)

const (
	// typeLimit bounds how long typing on a console may take: QEMU reads as fast as the guest's serial port does.
	typeLimit = 30 * time.Second
	// typeAgain is how long to wait where there is no room; it is a person's typing, or a text of more than 64 KiB.
	typeAgain = 5 * time.Millisecond
	// keptInput is how many bytes are kept while a handoff switches: what the FIFO of the next QEMU has room for.
	keptInput = 64 << 10
)

// keyboard is the way of what is typed for the guest to the QEMU that has it. While a handoff switches neither QEMU gets anything: what the
// source has not read by then is taken back, what is typed meanwhile is put behind it, and the one that has the guest afterwards gets all of
// it. So no QEMU ever reads what would end with it.
type keyboard struct {
	typing sync.Mutex // held by one who types, so that what two people type is not mixed

	mu   sync.Mutex // held for what does not wait
	held bool
	kept []byte
}

// put gives the guest as much of input as there is room for. It never waits.
func (m *machine) put(input []byte) (int, error) {
	k := &m.keyboard
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.held {
		n := min(len(input), max(0, keptInput-len(k.kept)))
		k.kept = append(k.kept, input[:n]...)
		return n, nil
	}
	g, err := m.typist()
	if err != nil {
		return 0, err
	}
	n, err := qemu.WriteInput(g.line.Consoles[0], input)
	if err != nil {
		return n, vmstate.Errorf(vmstate.QEMU, "cannot reach the console of %s: %w", m.spec.Name, err)
	}
	return n, nil
}

// typist is the generation that gets what is typed.
func (m *machine) typist() (*generation, error) {
	m.mu.Lock()
	g := m.current
	m.mu.Unlock()
	if g == nil {
		return nil, m.notThere("type on the console of")
	}
	if len(g.line.Consoles) == 0 {
		return nil, vmstate.Errorf(vmstate.Unsupported, "cannot type on the console of %s: it has no serial port", m.spec.Name).
			With("start it with -serial stdio, or without -nodefaults")
	}
	return g, nil
}

// hush is called right before a handoff stops the guest: from here on the source reads nothing any more.
func (m *machine) hush() {
	k := &m.keyboard
	k.mu.Lock()
	defer k.mu.Unlock()
	g, err := m.typist()
	if err != nil {
		return // there is nothing to type on
	}
	k.held = true
	if k.kept, err = g.side.Process.TakeInput(g.line.Consoles[0]); err != nil {
		m.log.Warn().Err(err).Msg("what the source has not read of its console does not go along")
	}
}

// heed is called once it is settled which QEMU has the guest: it gets what was kept. Its FIFO is empty and has room for all of it.
func (m *machine) heed() {
	k := &m.keyboard
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.held {
		return
	}
	kept := k.kept
	k.held, k.kept = false, nil
	if len(kept) == 0 {
		return
	}
	g, err := m.typist()
	if err != nil {
		return // the guest has ended, and nobody will ever read it
	}
	if n, err := qemu.WriteInput(g.line.Consoles[0], kept); err != nil || n < len(kept) {
		m.log.Warn().Err(err).Int("bytes", len(kept)-n).Msg("input of the console lost in a handoff")
	}
}

// Console types input on the guest's console. It returns once qlive or the kernel has all of it; the guest reads it in its own time.
func (d *Daemon) Console(vm string, input []byte) error {
	m, err := d.machine(vm)
	if err != nil {
		return err
	}
	if _, err := m.typist(); err != nil {
		return err
	}
	m.keyboard.typing.Lock()
	defer m.keyboard.typing.Unlock()
	deadline := time.Now().Add(typeLimit)
	for {
		n, err := m.put(input)
		if input = input[n:]; err != nil || len(input) == 0 {
			return err
		}
		if time.Now().After(deadline) {
			return vmstate.Errorf(vmstate.Timeout, "cannot type on the console of %s: the guest has not read it within %s", vm, typeLimit).
				With("see what the guest does; the first of it may have been read")
		}
		if n == 0 {
			time.Sleep(typeAgain)
		}
	}
}
