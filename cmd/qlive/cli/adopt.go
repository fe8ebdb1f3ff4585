package cli

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"qlive/vmstate"
)

func (a *app) adoptCmd() *cobra.Command {
	var ask vmstate.AdoptSpec
	c := &cobra.Command{
		Use: "adopt NAME", Short: "Take over a QEMU that runs",
		Long: `Take over a QEMU that somebody else has started, by its process, by its QMP socket, or by both. Nothing is stopped or changed: the
guest runs on, and is a VM of qlive's from then on. With --dry-run the QEMU is only looked at, and the report says what kind of
memory its RAM is and what that leads to, what a handoff interrupts, what stands in its way, and what it costs.`,
		Example: `  qlive adopt vm1 --pid 4711 --dry-run
  qlive adopt vm1 --pid 4711 --qmp /run/vm1.qmp`,
		Args: takes("NAME"),
		RunE: func(c *cobra.Command, args []string) error {
			if ask.PID == 0 && ask.QMP == "" {
				return usageError{errors.New("say which QEMU, with --pid or --qmp")}
			}
			if err := vmstate.CheckName(args[0]); err != nil {
				return err
			}
			if ask.QMP != "" && !filepath.IsAbs(ask.QMP) {
				ask.QMP = filepath.Join(a.Dir, ask.QMP)
			}
			vm, err := a.api().StartVM(c.Context(), vmstate.VMSpec{Name: args[0], Adopt: &ask})
			if err != nil {
				return err
			}
			if ask.DryRun {
				return a.print(printed{value: vm, names: []string{vm.Name}, table: func(w *tabwriter.Writer) { describeAdoption(w, vm) }})
			}
			for _, o := range vm.Adoption.Obstacles {
				a.note("in the way of a handoff: %s", o.What)
			}
			return a.printVM(vm, fmt.Sprintf("%s is %s: %s, pid %d, adopted; mode of its first handoff: %s", vm.Name, vm.Status, orDash(vm.QEMU.Version), vm.PID, vm.Adoption.Mode))
		},
	}
	c.Flags().IntVar(&ask.PID, "pid", 0, "process of the QEMU")
	c.Flags().StringVar(&ask.QMP, "qmp", "", "its QMP socket; found by its command line if absent")
	c.Flags().BoolVar(&ask.DryRun, "dry-run", false, "look and report, and leave the QEMU alone")
	c.Flags().BoolVar(&ask.AllowPostcopy, "allow-postcopy", false, "let mode auto move private RAM by postcopy, with what that risks")
	return c
}

// describeAdoption prints what was found of a QEMU.
func describeAdoption(w *tabwriter.Writer, vm vmstate.VM) {
	f := vm.Adoption
	line := func(name, format string, args ...any) {
		fmt.Fprintf(w, "%s:\t%s\n", name, clean(fmt.Sprintf(format, args...)))
	}
	line("process", "%d, %s (%s), %s", f.PID, f.Binary, orDash(f.Version), f.RunState)
	line("machine", "%s", orDash(f.Machine))
	line("monitor", "%s", orDash(f.Monitor))
	line("place", "user %d, cgroup %s, CPUs %s, in %s", f.UID, orDash(f.Cgroup), orDash(f.CPUs), orDash(f.Dir))
	for _, r := range f.Regions {
		line("region "+r.Name, "%s of %s, pages of %s: %s, since %s", size(r.SizeBytes), r.Backing, size(r.PageBytes), r.Mode, r.Why)
	}
	line("mode", "%s: %s", f.Mode, f.Why)
	switch {
	case f.NeedsAssent && f.Mode == vmstate.ModePrecopy:
		line("consent", "mode auto will not copy it: ask for mode precopy by name; the host has its RAM twice meanwhile")
	case f.NeedsAssent:
		line("consent", "mode auto will not move it: ask for mode postcopy by name, or adopt with --allow-postcopy")
	}
	if f.Mode != vmstate.ModeNone {
		line("costs", "about %s more memory at the peak, a pause of about %d ms, %s in all", size(f.PeakBytes), f.PauseMS, time.Duration(f.DurationMS)*time.Millisecond)
	}
	for _, text := range f.Interrupted {
		line("interrupted", "%s", text)
	}
	for _, d := range f.Descriptors {
		line("holds", "%s %s (descriptor %d)", d.Kind, d.Name, d.FD)
	}
	for _, o := range f.Obstacles {
		line("in the way", "%s", strings.TrimSuffix(o.What+"; "+o.Remedy, "; "))
	}
}
