package cli

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"qlive/vmstate"
)

func (a *app) rmCmd() *cobra.Command {
	var force, forget bool
	c := &cobra.Command{
		Use: "rm VM...", Short: "Take VMs that have stopped off the list",
		Long: `Take VMs that have stopped off the list, for good: their definitions are removed, and so are logs and consoles. With --forget
those that run are let go of, and run on: what qlive adopted is as it was before, and what qlive started keeps its
monitor and its console in the folder "forgotten" of the run directory, and can be adopted again.`,
		Args: takesSome("VM"), ValidArgsFunction: a.completeVMs,
		RunE: func(c *cobra.Command, args []string) error {
			if force && forget {
				return usageError{errors.New("--force kills and --forget does not: use one of them")}
			}
			return a.each(args, func(name string) error {
				if forget {
					return a.forget(c.Context(), name)
				}
				return a.rm(c.Context(), name, force)
			})
		},
	}
	c.Flags().BoolVar(&force, "force", false, "kill those that run")
	c.Flags().BoolVar(&forget, "forget", false, "let those that run go on without qlive")
	return c
}

func (a *app) rm(ctx context.Context, name string, force bool) error {
	vm, err := a.api().VM(ctx, name)
	if err != nil {
		return err
	}
	if !force && vm.Status != vmstate.Stopped {
		e := vmstate.Errorf(vmstate.Conflict, "cannot remove VM %s: it is %s", name, vm.Status).
			With("stop it first, or use --force, which kills it, or --forget, which lets it run")
		e.VM = name
		return e
	}
	if err := a.api().RemoveVM(ctx, name, force); err != nil {
		return err
	}
	a.note("%s is gone", name)
	return nil
}

func (a *app) forget(ctx context.Context, name string) error {
	vm, err := a.api().VM(ctx, name)
	if err != nil {
		return err
	}
	if err := a.api().ForgetVM(ctx, name); err != nil {
		return err
	}
	if vm.PID == 0 {
		a.note("%s is gone", name)
	} else {
		a.note("%s is let go of: process %d runs on", name, vm.PID)
	}
	return nil
}
