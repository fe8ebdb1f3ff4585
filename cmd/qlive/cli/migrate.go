package cli

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/spf13/cobra"

	"qlive/restapi/client"
	"qlive/vmstate"
)

// handoff is what can be said of a handoff on the command line.
type handoff struct {
	to, way, mode, populate string
	maxPause, timeout       time.Duration
	hold, detach            bool
	memory                  newMemory
}

func (h *handoff) flags(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&h.to, "to", "", "the QEMU to hand over to; by default the file that is now at the VM's own binary's path")
	f.StringVar(&h.mode, "mode", "auto", "how memory gets there: auto, shared, cpr, postcopy or precopy")
	f.StringVar(&h.way, "way", "auto", "how the guest is switched over: auto, device_state, stop_first or live")
	f.StringVar(&h.populate, "populate", "auto", "fill the target's page tables beforehand, of regions without holes: auto or never")
	f.DurationVar(&h.maxPause, "max-pause", 0, fmt.Sprintf("pause at which the handoff is undone (default %s)", time.Duration(vmstate.DefaultMaxPauseMS)*time.Millisecond))
	f.DurationVar(&h.timeout, "timeout", 0, fmt.Sprintf("time after which a handoff that has not switched is undone (default %ds, in mode precopy 1s more for each 64 MiB, a day with --hold)", vmstate.DefaultTimeoutS))
	f.BoolVar(&h.hold, "hold", false, "stop before the switch, until qlive migration continue")
	f.BoolVar(&h.detach, "detach", false, "do not wait for the end")
	for flag, values := range map[string][]string{"mode": modes(), "way": ways()} {
		if err := c.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)); err != nil {
			panic(err) // the flags are defined above
		}
	}
}

// modes and ways are what can be asked for by name.
func modes() []string {
	return named(vmstate.ModeAuto, vmstate.ModeShared, vmstate.ModeCPR, vmstate.ModePostcopy, vmstate.ModePrecopy)
}

func ways() []string { return named(append([]vmstate.Way{vmstate.WayAuto}, vmstate.Ways()...)...) }

func named[T ~string](list ...T) []string {
	names := make([]string, len(list))
	for i, v := range list {
		names[i] = string(v)
	}
	return names
}

// spec is the request for a VM.
func (h *handoff) spec(a *app, vm string) (vmstate.MigrationSpec, error) {
	spec := vmstate.MigrationSpec{VM: vm, Hold: h.hold}
	if h.to != "" {
		var err error
		if spec.Binary, err = a.lookUp(h.to); err != nil {
			return spec, err
		}
	}
	if h.mode != string(vmstate.ModeAuto) {
		spec.Mode = vmstate.Mode(h.mode)
	}
	if h.way != string(vmstate.WayAuto) {
		spec.Way = vmstate.Way(h.way)
	}
	if h.populate != "auto" {
		spec.Populate = h.populate
	}
	var err error
	if spec.Memory, err = h.memory.spec(a); err != nil {
		return spec, err
	}
	if spec.MaxPauseMS, err = whole("--max-pause", h.maxPause, time.Millisecond); err != nil {
		return spec, err
	}
	spec.TimeoutS, err = whole("--timeout", h.timeout, time.Second)
	return spec, err
}

// whole is d in units, rounded up; 0 leaves it to the daemon.
func whole(flag string, d, unit time.Duration) (int, error) {
	n := math.Ceil(float64(d) / float64(unit))
	if d < 0 || n > math.MaxInt32 {
		return 0, usageError{fmt.Errorf("%s cannot be %s", flag, d)}
	}
	return int(n), nil
}

func (a *app) migrateCmd() *cobra.Command {
	var h handoff
	c := &cobra.Command{
		Use: "migrate VM", Short: "Hand a running VM over to another QEMU",
		Long: `Hand a running VM over to another QEMU on this host. The guest goes on in the new one after a pause of milliseconds;
if anything fails before that, it goes on in the old one, and the exit code is 7. Ctrl-C stops waiting, and nothing else.

With --hugepages, --hugetlbfs or --memfd its memory is made of something else from then on. It is copied while the guest stands:
how long that will take is measured first, and refused with the numbers unless --max-pause allows it. With --mode precopy as well
it is copied while the guest runs, and the host holds it twice meanwhile.

Auto never chooses the modes postcopy and precopy, which move and copy memory that is private to a QEMU of somebody else's.`,
		Example: `  qlive migrate vm1 --to /opt/qemu-11/bin/qemu-system-x86_64
  qlive migrate vm1 --hugepages 2M --max-pause 5s
  qlive migrate vm1 --hugepages 2M --mode precopy`,
		Args: takes("VM"), ValidArgsFunction: a.completeVMs,
		RunE: func(c *cobra.Command, args []string) error { return a.migrate(c.Context(), args[0], h) },
	}
	h.flags(c)
	h.memory.flags(c)
	return c
}

// migrate begins a migration and, unless it is to be detached, sees it to its end.
func (a *app) migrate(ctx context.Context, vm string, h handoff) error {
	spec, err := h.spec(a, vm)
	if err != nil {
		return err
	}
	// The key makes the request safe to send again when the answer was lost.
	key := client.NewKey()
	m, err := a.api().Migrate(ctx, spec, key)
	if e, ok := errors.AsType[*vmstate.Error](err); ok && e.Kind == vmstate.Unavailable && !isRefusal(err) {
		m, err = a.api().Migrate(ctx, spec, key)
	}
	if err != nil {
		return err
	}
	return a.finish(ctx, m, h.detach, h.hold)
}

// isRefusal tells whether err came from the daemon, and not from the way to it.
func isRefusal(err error) bool {
	_, ok := errors.AsType[*client.Refusal](err)
	return ok
}

// finish waits for a migration that was begun, and prints it.
func (a *app) finish(ctx context.Context, m vmstate.Migration, detach, hold bool) error {
	if detach {
		a.note("%s goes on; see qlive migration show %s", m.ID, m.ID)
		return a.printMigration(m)
	}
	m, err := a.await(ctx, m, hold)
	if err != nil {
		return err
	}
	if err := a.printMigration(m); err != nil {
		return err
	}
	if hold && m.Phase == vmstate.Prepared {
		a.note("%s is prepared and holds; go on with qlive migration continue %s", m.ID, m.ID)
		return nil
	}
	return verdict(m)
}

// await shows a migration's progress until it has ended or, if hold is set, until it holds.
func (a *app) await(ctx context.Context, m vmstate.Migration, hold bool) (vmstate.Migration, error) {
	show := newProgress(a)
	defer show.end()
	for now, err := range a.api().Follow(ctx, m.ID) {
		if err != nil {
			show.end()
			return m, a.detached(ctx, m, err)
		}
		m = now
		show.update(m)
		if hold && m.Phase == vmstate.Prepared {
			break
		}
	}
	return m, nil
}

// detached says how to come back, if it was the user or a time limit that ended the wait.
func (a *app) detached(ctx context.Context, m vmstate.Migration, err error) error {
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		late := vmstate.Errorf(vmstate.Timeout, "cannot wait longer for migration %s: it is %s, and goes on", m.ID, m.Phase).With("qlive migration wait " + m.ID + " waits again")
		late.VM, late.Migration = m.VM, m.ID
		return late
	case ctx.Err() != nil:
		fmt.Fprintf(a.Stderr, "detached: migration %s of %s goes on\n  → come back with qlive migration wait %s, stop it with qlive migration cancel %s\n", m.ID, m.VM, m.ID, m.ID)
		return ctx.Err()
	}
	return err
}

// verdict is nil for a migration that completed, and otherwise the error that says how it ended.
func verdict(m vmstate.Migration) error {
	if m.Phase == vmstate.Completed {
		return nil
	}
	e := vmstate.Errorf(vmstate.Cancelled, "cannot complete the migration of VM %s: it ended %s", m.VM, m.Phase)
	e.VM, e.Migration = m.VM, m.ID
	if p := m.Error; p != nil {
		e = &vmstate.Error{Kind: p.Kind(), Step: p.Step, VM: p.VM, Migration: p.Migration, Detail: p.Detail, Remedy: p.Remedy, Words: p.QEMU}
	}
	code := vmstate.ExitRolledBack
	if m.Phase == vmstate.Failed {
		code = vmstate.Lost.Info().Exit
	}
	return &exitError{code, e}
}

func (a *app) rollbackCmd() *cobra.Command {
	var detach bool
	c := &cobra.Command{
		Use: "rollback VM", Short: "Hand a VM back to the QEMU that it came from", Args: takes("VM"), ValidArgsFunction: a.completeVMs,
		RunE: func(c *cobra.Command, args []string) error {
			m, err := a.api().Rollback(c.Context(), args[0])
			if err != nil {
				return err
			}
			return a.finish(c.Context(), m, detach, false)
		},
	}
	c.Flags().BoolVar(&detach, "detach", false, "do not wait for the end")
	return c
}

func (a *app) upgradeCmd() *cobra.Command {
	var h handoff
	var all bool
	c := &cobra.Command{
		Use: "upgrade VM... | --all", Short: "Hand VMs over to the QEMU that is now installed",
		Long: `Hand VMs over, one after the other, to the file that is now at their binary's path, or to --to. With --all these are
the VMs that run something else than that. The first that does not complete ends the upgrade; the others stay as they are.`,
		Example:           "  apt upgrade qemu-system-x86 && qlive upgrade --all",
		ValidArgsFunction: a.completeVMs,
		Args: func(_ *cobra.Command, args []string) error {
			if all == (len(args) > 0) {
				return errors.New("name VMs, or say --all")
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error { return a.upgrade(c.Context(), args, all, h) },
	}
	h.flags(c)
	for _, name := range []string{"hold", "detach"} {
		if err := c.Flags().MarkHidden(name); err != nil {
			panic(err) // the flags are defined above
		}
	}
	c.Flags().BoolVar(&all, "all", false, "all VMs that run something else than the target")
	return c
}

func (a *app) upgrade(ctx context.Context, names []string, all bool, h handoff) error {
	if h.hold || h.detach {
		return usageError{errors.New("an upgrade waits for each VM: --hold and --detach are for qlive migrate")}
	}
	if all {
		var err error
		if names, err = a.behind(ctx, h); err != nil {
			return err
		}
		if len(names) == 0 {
			a.note("no VM runs anything else")
		}
	}
	var done []vmstate.Migration
	var failure error
	for i, name := range names {
		m, err := a.upgradeOne(ctx, name, h)
		if m.ID != "" {
			done = append(done, m)
		}
		if err != nil {
			if left := names[i+1:]; len(left) > 0 {
				a.note("not touched: %v", left)
			}
			failure = err
			break
		}
	}
	return errors.Join(a.printMigrations(append([]vmstate.Migration{}, done...)), failure)
}

func (a *app) upgradeOne(ctx context.Context, name string, h handoff) (vmstate.Migration, error) {
	spec, err := h.spec(a, name)
	if err != nil {
		return vmstate.Migration{}, err
	}
	m, err := a.api().Migrate(ctx, spec, client.NewKey())
	if err != nil {
		return m, err
	}
	if m, err = a.await(ctx, m, false); err != nil {
		return m, err
	}
	return m, verdict(m)
}

// behind are the VMs that have a QEMU, and another one than they would be handed over to.
func (a *app) behind(ctx context.Context, h handoff) ([]string, error) {
	target := ""
	if h.to != "" {
		var err error
		if target, err = a.lookUp(h.to); err != nil {
			return nil, err
		}
	}
	vms, err := a.api().VMs(ctx)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, vm := range vms {
		same := target == "" || target == vm.QEMU.Binary
		switch {
		case vm.Status == vmstate.Stopped || vm.Status == vmstate.Broken:
			a.note("%s is %s: left as it is", vm.Name, vm.Status)
		case !same || vm.QEMU.Outdated:
			names = append(names, vm.Name)
		}
	}
	return names, nil
}
