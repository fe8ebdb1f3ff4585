package stage

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"qlive/integration/guest"
	"qlive/vmstate"
)

// Shape describes a guest.
type Shape struct {
	QEMU    string // version that starts it
	Machine string // pc-q35-7.2 if empty
	MiB     int    // 256 if 0
	CPUs    int    // 1 if 0
	Args    []string
	Load    guest.Params
	Bare    bool // no kernel: it sits in its firmware and says nothing
}

// Guest is a guest that was started, and its witness.
type Guest struct {
	Name  string
	Shape Shape
	*Witness
	stage    *Stage
	stranger *stranger // that had it first; nil if the daemon has started it
	tags     int
}

// settledBeats are beats that show that a guest goes on.
const settledBeats = 20

// Boot starts a guest and, unless it is bare, waits until it has filled its memory and beats.
func (s *Stage) Boot(ctx context.Context, shape Shape) (*Guest, error) {
	g := s.newGuest(shape)
	spec := vmstate.VMSpec{Name: g.Name, Binary: s.Env.QEMU(shape.QEMU), Args: s.arguments(g.Name, shape)}
	if _, err := s.Client.StartVM(ctx, spec); err != nil {
		return nil, fmt.Errorf("cannot start %s: %w", g.Name, err)
	}
	if shape.Bare {
		return g, nil
	}
	if err := s.filled(ctx, g); err != nil {
		return nil, err
	}
	return g, g.GoesOn(ctx)
}

// newGuest is a guest that is about to be started, and is watched from now on.
func (s *Stage) newGuest(shape Shape) *Guest {
	s.guests++
	g := &Guest{Name: fmt.Sprintf("vm%d", s.guests), Shape: shape, stage: s}
	g.Witness = NewWitness(s.vms(), g.Name)
	s.open[g.Name] = g
	return g
}

// filled waits until a guest has filled its memory.
func (s *Stage) filled(ctx context.Context, g *Guest) error {
	return Eventually(ctx, g.Name+" has filled its memory", Limit, func() error {
		boots := g.Report().Boots
		if len(boots) == 0 || boots[0].Fill == nil {
			return fmt.Errorf("last: %q", g.Last())
		}
		return nil
	})
}

func (s *Stage) arguments(name string, shape Shape) []string {
	machine := shape.Machine
	if machine == "" {
		machine = "pc-q35-7.2"
	}
	args := []string{
		"-name", "guest=" + name + ",debug-threads=on", "-accel", "tcg", "-cpu", "qemu64", "-machine", machine, "-smp", strconv.Itoa(max(shape.CPUs, 1)),
		"-m", strconv.Itoa(max(shape.MiB, 128)), "-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio",
	}
	if !shape.Bare {
		args = append(args, "-kernel", s.Env.Kernel, "-initrd", s.initrd, "-append", guest.Append(shape.Load))
	}
	return append(args, shape.Args...)
}

// GoesOn waits for some beats more.
func (g *Guest) GoesOn(ctx context.Context) error {
	want := g.Beats() + settledBeats
	return Eventually(ctx, g.Name+" beats on", Limit/2, func() error {
		if n := g.Beats(); n < want {
			return fmt.Errorf("it lacks %d beats; last: %q", want-n, g.Last())
		}
		return nil
	})
}

// Verify lets the guest check all of its memory, and checks all that it has said.
func (g *Guest) Verify(ctx context.Context) error {
	g.tags++
	tag := fmt.Sprintf("t%d", g.tags)
	if err := g.stage.Client.Type(ctx, g.Name, []byte("verify "+tag+"\n")); err != nil {
		return fmt.Errorf("cannot tell %s to verify its memory: %w", g.Name, err)
	}
	err := Eventually(ctx, g.Name+" has verified its memory", Limit, func() error {
		if _, ok := g.Verified(tag); !ok {
			return fmt.Errorf("no answer; last: %q", g.Last())
		}
		return nil
	})
	if err != nil {
		return err
	}
	return g.Check()
}

// Remove ends a guest through the daemon and sees that no QEMU of it is left.
func (s *Stage) Remove(ctx context.Context, g *Guest) error {
	if err := s.Client.RemoveVM(ctx, g.Name, true); err != nil {
		return fmt.Errorf("cannot remove %s: %w", g.Name, err)
	}
	err := Eventually(ctx, "no QEMU of "+g.Name+" is left", Limit, func() error {
		if left := g.Living(); len(left) > 0 {
			return fmt.Errorf("%d live, the first with pid %d", len(left), left[0].PID)
		}
		return nil
	})
	return errors.Join(err, s.drop(g))
}

// drop ends what may be left of a guest without asking anyone.
func (s *Stage) drop(g *Guest) error {
	delete(s.open, g.Name)
	var errs []error
	for _, q := range g.Living() {
		errs = append(errs, q.signal(unix.SIGKILL))
	}
	for deadline := time.Now().Add(Limit / 6); len(g.Living()) > 0 && time.Now().Before(deadline); time.Sleep(lookEvery) {
	}
	errs = append(errs, g.endStranger())
	g.Witness.Close()
	return errors.Join(errs...)
}
