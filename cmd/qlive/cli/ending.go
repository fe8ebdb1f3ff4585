package cli

import (
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"

	"qlive/restapi/client"
	"qlive/vmstate"
)

func (a *app) stopCmd() *cobra.Command {
	var force bool
	var timeout time.Duration
	c := &cobra.Command{
		Use: "stop VM...", Short: "Power VMs down, and wait",
		Long: "Ask guests to power off, and wait until they have. With --force their QEMUs are killed, as if the plug were pulled. The\nVMs stay listed, stopped: qlive start starts them again, qlive rm takes them off the list.",
		Args: takesSome("VM"), ValidArgsFunction: a.completeVMs,
		RunE: func(c *cobra.Command, args []string) error {
			return a.each(args, func(name string) error { return a.stop(c.Context(), name, force, timeout) })
		},
	}
	c.Flags().BoolVar(&force, "force", false, "kill QEMU")
	c.Flags().DurationVar(&timeout, "timeout", 2*time.Minute, "how long to wait for a guest; 0 does not wait")
	return c
}

func (a *app) stop(ctx context.Context, name string, force bool, timeout time.Duration) error {
	vm, err := a.api().VM(ctx, name)
	switch {
	case err != nil:
		return err
	case vm.Status == vmstate.Stopped:
		return a.hasStopped(name)
	case force:
		if _, err := a.api().Kill(ctx, name); err != nil {
			return err
		}
		return a.hasStopped(name)
	}
	if _, err := a.api().Powerdown(ctx, name); err != nil {
		return err
	}
	if timeout == 0 {
		a.note("%s has been asked to power off", name)
		return nil
	}
	wait, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for e, err := range a.api().Events(wait, client.Watch{VM: name}) {
		switch {
		case errors.Is(err, context.DeadlineExceeded):
			late := vmstate.Errorf(vmstate.Timeout, "cannot see VM %s power off: it has not within %s", name, timeout).With("it was asked to, and may yet do it; --force kills it")
			late.VM = name
			return late
		case err != nil && ctx.Err() != nil:
			a.note("\ndetached: %s has been asked to power off, and goes on", name)
			return ctx.Err()
		case err != nil:
			return err
		}
		switch vm, said, there := seenIn(e, name); {
		case !said:
		case !there:
			a.note("%s is gone: somebody has removed it", name)
			return nil
		case vm.Status == vmstate.Stopped:
			return a.hasStopped(name)
		case vm.Status == vmstate.Broken && vm.Error != nil:
			return &vmstate.Error{Kind: vm.Error.Kind(), VM: name, Detail: vm.Error.Detail, Remedy: vm.Error.Remedy}
		}
	}
	return nil
}

func (a *app) hasStopped(name string) error {
	a.note("%s is %s", name, vmstate.Stopped)
	return nil
}

// seenIn is the VM as an event shows it, if the event says anything of it, and if it is still there.
func seenIn(e vmstate.Event, name string) (vm vmstate.VM, said, there bool) {
	switch data := e.Data.(type) {
	case vmstate.State:
		vm, there = (&vmstate.Snapshot{VMs: data.VMs}).VM(name)
		return vm, true, there
	case vmstate.VM:
		return data, e.VM == name, true
	}
	return vm, e.Type == vmstate.EventVM && e.VM == name && e.Deleted, false
}
