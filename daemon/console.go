package daemon

import (
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"qlive/vmstate"
)

// typeLimit bounds how long typing on a console may take: QEMU reads as fast as the guest's serial port does.
const typeLimit = 30 * time.Second

// Console types input on the guest's console. It returns once the kernel has all of it; the guest reads it in its own time.
func (d *Daemon) Console(vm string, input []byte) error {
	m, err := d.machine(vm)
	if err != nil {
		return err
	}
	m.mu.Lock()
	g := m.current
	m.mu.Unlock()
	if g == nil {
		return m.notThere("type on the console of")
	}
	if len(g.line.Consoles) == 0 {
		return vmstate.Errorf(vmstate.Unsupported, "cannot type on the console of %s: it has no serial port", vm).
			With("start it with -serial stdio, or without -nodefaults")
	}
	m.typing.Lock() // so that what two people type is not mixed
	defer m.typing.Unlock()
	// QEMU holds the FIFO open for reading: without it there would be ENXIO at once, instead of a wait.
	f, err := os.OpenFile(g.line.Consoles[0].Input, os.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return vmstate.Errorf(vmstate.QEMU, "cannot reach the console of %s: %w", vm, err)
	}
	defer f.Close()
	if err := f.SetWriteDeadline(time.Now().Add(typeLimit)); err != nil {
		return vmstate.Errorf(vmstate.Host, "cannot type on the console of %s: %w", vm, err)
	}
	if _, err := f.Write(input); errors.Is(err, os.ErrDeadlineExceeded) {
		return vmstate.Errorf(vmstate.Timeout, "cannot type on the console of %s: the guest has not read it within %s", vm, typeLimit)
	} else if err != nil {
		return vmstate.Errorf(vmstate.QEMU, "cannot type on the console of %s: %w", vm, err)
	}
	return nil
}
