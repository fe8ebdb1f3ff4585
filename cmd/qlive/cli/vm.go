package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"qlive/restapi/client"
	"qlive/vmstate"
)

func (a *app) runCmd() *cobra.Command {
	var hugepages, hugetlbfs, binary, restart string
	var autostart bool
	var limits limitsFlag
	c := &cobra.Command{
		Use:   "run NAME [flags] -- QEMU [ARGS...]",
		Short: "Start a guest from a QEMU command line",
		Long: `Start a guest from the QEMU command line that you have. qlive gives it memory that can be handed over, its own
monitor, and paths that a second QEMU can have beside the first; qlive show NAME --argv says what was run, and why
it differs. The first word after -- is the QEMU, looked up in PATH here and run by the daemon; relative paths in the
arguments start here. With --binary all words after -- are arguments.`,
		Example: `  qlive run vm1 -- qemu-system-x86_64 -machine q35,accel=kvm -m 4096 -drive file=disk.qcow2,if=virtio
  qlive run vm1 --hugepages 2M -- qemu-system-x86_64 -m 8192 -nographic`,
		Args: func(c *cobra.Command, args []string) error {
			dash := c.ArgsLenAtDash()
			switch {
			case dash < 0 && len(args) > 1:
				return errors.New("write -- before the QEMU command line")
			case dash < 0 && len(args) == 1 && binary != "", dash == 1 && (binary != "" || len(args) > 1):
				return nil
			case dash > 1 || dash == 0:
				return errors.New("write one name before --")
			}
			return errors.New("a name and a QEMU command line are needed")
		},
		RunE: func(c *cobra.Command, args []string) error {
			spec := vmstate.VMSpec{Name: args[0], Args: args[1:], Dir: a.Dir, Restart: vmstate.RestartPolicy(restart), Autostart: autostart, Limits: limits.limits}
			program := binary
			if program == "" {
				program, spec.Args = args[1], args[2:]
			}
			if err := vmstate.CheckName(spec.Name); err != nil {
				return err
			}
			if err := spec.Restart.Check(); err != nil {
				return err
			}
			for _, arg := range spec.Args {
				if !utf8.ValidString(arg) { // JSON would carry other letters
					return vmstate.Errorf(vmstate.Unsupported, "cannot pass the argument %q on: it is not UTF-8", arg).With("give the file a name in UTF-8")
				}
			}
			var err error
			if spec.Binary, err = a.lookUp(program); err != nil {
				return err
			}
			if spec.Memory, err = a.memory(hugepages, hugetlbfs); err != nil {
				return err
			}
			vm, err := a.api().StartVM(c.Context(), spec)
			if err != nil {
				return err
			}
			return a.printVM(vm, fmt.Sprintf("%s is %s: %s, pid %d", vm.Name, vm.Status, orDash(vm.QEMU.Version), vm.PID))
		},
	}
	c.SetFlagErrorFunc(func(_ *cobra.Command, err error) error {
		return usageError{fmt.Errorf("%w\nwrite -- before the QEMU command line", err)}
	})
	c.Flags().StringVar(&hugepages, "hugepages", "", "memory of huge pages of this size: 2M or 1G")
	c.Flags().StringVar(&hugetlbfs, "hugetlbfs", "", "memory in a file on this hugetlbfs mount")
	c.Flags().StringVar(&binary, "binary", "", "the QEMU to run")
	c.Flags().StringVar(&restart, "restart", "never", "what happens when QEMU fails: never, or on-failure: the VM is started anew")
	c.Flags().Var(&limits, "limit", "what all QEMUs of the VM may take together: memory=6G, cpu=150%, processes=200; or oom=100 (oom_score_adj)")
	c.Flags().BoolVar(&autostart, "autostart", false, "start the VM when the daemon starts after a boot of the host")
	return c
}

// lookUp makes a program's name absolute, the way a shell finds it from here.
func (a *app) lookUp(program string) (string, error) {
	if strings.Contains(program, "/") {
		if !filepath.IsAbs(program) {
			program = filepath.Join(a.Dir, program)
		}
		return filepath.Clean(program), nil
	}
	for _, dir := range filepath.SplitList(a.Getenv("PATH")) {
		if path, err := exec.LookPath(filepath.Join(cmp.Or(dir, "."), program)); err == nil && filepath.IsAbs(path) {
			return path, nil
		}
	}
	return "", vmstate.Errorf(vmstate.NotFound, "cannot find %q in PATH", program).With("write its whole path")
}

func (a *app) memory(hugepages, hugetlbfs string) (vmstate.MemorySpec, error) {
	switch {
	case hugetlbfs != "" && hugepages != "":
		return vmstate.MemorySpec{}, usageError{errors.New("--hugetlbfs has huge pages of a size already: leave out --hugepages")}
	case hugetlbfs != "":
		if !filepath.IsAbs(hugetlbfs) {
			hugetlbfs = filepath.Join(a.Dir, hugetlbfs)
		}
		return vmstate.MemorySpec{Backing: vmstate.Hugetlbfs, Path: hugetlbfs}, nil
	case hugepages == "":
		return vmstate.MemorySpec{}, nil
	}
	pages := map[string]uint64{"2M": 2 << 20, "1G": 1 << 30}
	if n, ok := pages[strings.ToUpper(hugepages)]; ok {
		return vmstate.MemorySpec{Backing: vmstate.Hugetlb, PageBytes: n}, nil
	}
	return vmstate.MemorySpec{}, usageError{fmt.Errorf("there are no huge pages of %q: write 2M or 1G", hugepages)}
}

func (a *app) listCmd() *cobra.Command {
	return &cobra.Command{Use: "list", Aliases: []string{"ls"}, Short: "List VMs", Args: takes(), RunE: func(c *cobra.Command, _ []string) error {
		vms, err := a.api().VMs(c.Context())
		if err != nil {
			return err
		}
		return a.printVMs(vms)
	}}
}

func (a *app) showCmd() *cobra.Command {
	var argv bool
	c := &cobra.Command{Use: "show VM", Short: "Show a VM", Args: takes("VM"), ValidArgsFunction: a.completeVMs, RunE: func(c *cobra.Command, args []string) error {
		vm, err := a.api().VM(c.Context(), args[0])
		if err != nil {
			return err
		}
		if argv {
			return a.printArgv(vm)
		}
		return a.print(printed{value: vm, names: []string{vm.Name}, table: func(w *tabwriter.Writer) { describeVM(w, vm) }})
	}}
	c.Flags().BoolVar(&argv, "argv", false, "the QEMU command line that was run, and why it differs from what was asked for")
	return c
}

func describeVM(w *tabwriter.Writer, vm vmstate.VM) {
	line := func(name, format string, args ...any) {
		fmt.Fprintf(w, "%s:\t%s\n", name, clean(fmt.Sprintf(format, args...)))
	}
	line("name", "%s", vm.Name)
	line("status", "%s (%s)", vm.Status, orDash(vm.RunState))
	line("pid", "%d", vm.PID)
	line("qemu", "%s %s", orDash(vm.QEMU.Version), vm.QEMU.Package)
	line("binary", "%s", vm.QEMU.Binary)
	if vm.QEMU.Outdated {
		line("outdated", "the file at that path is a newer one: qlive upgrade %s", vm.Name)
	}
	line("machine", "%s", orDash(vm.Machine))
	line("ram", "%s", size(vm.RAMBytes))
	started := "-"
	if !vm.StartedAt.IsZero() {
		started = vm.StartedAt.UTC().Format(time.RFC3339)
	}
	line("started", "%s", started)
	line("restart", "%s", restartText(vm))
	line("autostart", "%s", map[bool]string{true: "yes", false: "no"}[vm.Autostart])
	line("handoffs", "%d", vm.Generation)
	line("migration", "%s", orDash(vm.Migration))
	for _, warning := range vm.Warnings {
		line("warning", "%s", warning)
	}
	if vm.Error != nil {
		line("error", "%s", vm.Error.Detail)
		if vm.Error.Remedy != "" {
			line("remedy", "%s", vm.Error.Remedy)
		}
	}
	for _, r := range vm.Regions {
		line("region "+r.Name, "%s of %s, pages of %s, %s, %d%%", size(r.SizeBytes), r.Backing, size(r.PageBytes), r.State, r.Progress)
	}
}

// restartText says what happens when QEMU fails, and what has.
func restartText(vm vmstate.VM) string {
	text := string(vm.Restart.OrNever())
	if vm.Restarts > 0 {
		text += fmt.Sprintf(", %d so far", vm.Restarts)
	}
	if vm.RestartAt != nil {
		text += ", the next at " + vm.RestartAt.UTC().Format(time.RFC3339)
	}
	return text
}

// printArgv prints the command line so that it can be pasted into a shell, and below it, as comments, what was changed.
func (a *app) printArgv(vm vmstate.VM) error {
	p := printed{value: items[vmstate.Arg]{vm.Argv}}
	var text strings.Builder
	var changes []vmstate.Arg
	for i, arg := range vm.Argv {
		p.names = append(p.names, arg.Value)
		if arg.Why != "" || arg.Dropped {
			changes = appendChange(changes, arg, vm.Argv[max(i-1, 0)])
		}
		if arg.Dropped {
			continue
		}
		switch { // an option and its value share a line
		case i == 0:
		case strings.HasPrefix(arg.Value, "-"):
			text.WriteString(" \\\n  ")
		default:
			text.WriteString(" ")
		}
		text.WriteString(quote(arg.Value))
	}
	p.table = func(w *tabwriter.Writer) {
		fmt.Fprintln(w, text.String())
		for _, c := range changes {
			fmt.Fprintf(w, "# %s\n", clean(change(c)))
		}
	}
	return a.print(p)
}

// appendChange keeps an option and its value together, where the same was done to both.
func appendChange(changes []vmstate.Arg, arg, before vmstate.Arg) []vmstate.Arg {
	n := len(changes)
	together := n > 0 && strings.HasPrefix(before.Value+before.Was, "-") && !strings.HasPrefix(arg.Value+arg.Was, "-") && before.Why == arg.Why && before.Dropped == arg.Dropped
	if !together || (before.Was == "") != (arg.Was == "") {
		arg.Value, arg.Was = quoteAny(arg.Value), quoteAny(arg.Was)
		return append(changes, arg)
	}
	changes[n-1].Value = strings.TrimSpace(changes[n-1].Value + " " + quoteAny(arg.Value))
	changes[n-1].Was = strings.TrimSpace(changes[n-1].Was + " " + quoteAny(arg.Was))
	return changes
}

// quoteAny quotes a word, if there is one.
func quoteAny(word string) string {
	if word == "" {
		return ""
	}
	return quote(word)
}

// change says in one line what was done to arguments.
func change(arg vmstate.Arg) string {
	switch {
	case arg.Dropped:
		return fmt.Sprintf("dropped %s: %s", arg.Was, arg.Why)
	case arg.Was == "":
		return fmt.Sprintf("added %s: %s", arg.Value, arg.Why)
	}
	return fmt.Sprintf("%s instead of %s: %s", arg.Value, arg.Was, arg.Why)
}

func (a *app) statusCmd() *cobra.Command {
	return &cobra.Command{Use: "status VM", Short: "Print a VM's status, one word", Args: takes("VM"), ValidArgsFunction: a.completeVMs, RunE: func(c *cobra.Command, args []string) error {
		vm, err := a.api().VM(c.Context(), args[0])
		if err != nil {
			return err
		}
		return a.print(printed{value: vm, names: []string{vm.Name}, table: func(w *tabwriter.Writer) { fmt.Fprintln(w, vm.Status) }})
	}}
}

// each does something to every VM that is named, whatever becomes of the others.
func (a *app) each(names []string, do func(name string) error) error {
	var errs []error
	for _, name := range names {
		if err := do(name); err != nil {
			errs = append(errs, err)
		}
	}
	if len(errs) == 1 {
		return errs[0]
	}
	return errors.Join(errs...)
}

// verb is a command that does one thing to the VMs that are named.
func (a *app) verb(name, short, long string, do func(*client.Client, context.Context, string) (vmstate.VM, error)) *cobra.Command {
	return &cobra.Command{Use: name + " VM...", Short: short, Long: long, Args: takesSome("VM"), ValidArgsFunction: a.completeVMs, RunE: func(c *cobra.Command, args []string) error {
		return a.each(args, func(name string) error {
			vm, err := do(a.api(), c.Context(), name)
			if err != nil {
				return err
			}
			return a.printVM(vm, fmt.Sprintf("%s is %s", vm.Name, vm.Status))
		})
	}}
}

func (a *app) startCmd() *cobra.Command {
	return a.verb("start", "Start VMs that have stopped", `Start VMs that have stopped or failed, from the definition that qlive run has written: with the same arguments and memory, in
the QEMU that had the guest last.`, (*client.Client).StartStoppedVM)
}

func (a *app) pauseCmd() *cobra.Command {
	return a.verb("pause", "Stop the vCPUs of VMs", "", (*client.Client).Pause)
}

func (a *app) resumeCmd() *cobra.Command {
	return a.verb("resume", "Let the vCPUs of VMs run", "", (*client.Client).Resume)
}

func (a *app) resetCmd() *cobra.Command {
	return a.verb("reset", "Press the reset button of VMs", "", (*client.Client).Reset)
}

func (a *app) powerdownCmd() *cobra.Command {
	return a.verb("powerdown", "Press the power button of VMs",
		"Press the power button of VMs, and do not wait: whether a guest obeys is its own business. The VM stays listed, stopped,\nwith its console and log: qlive start starts it again, qlive rm takes it off the list.", (*client.Client).Powerdown)
}
