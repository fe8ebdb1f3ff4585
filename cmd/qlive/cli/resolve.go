package cli

import (
	"bufio"
	"cmp"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"qlive/vmstate"
)

func (a *app) resolveCmd() *cobra.Command {
	var to string
	var yes bool
	c := &cobra.Command{
		Use: "resolve VM [--to source|target|discard]", Short: "Decide of a VM whose handoff has failed",
		Long: `Decide who goes on with a guest whose handoff has failed, when nobody can tell which of two QEMUs has run it last.
Without --to: show what is seen of both, and what can be decided. With it: show the same, ask, and do it: the other QEMU is
killed, and seen dead, before the guest goes on. docs/recovery.md says what to look at first.`,
		Example: `  qlive resolve vm1
  qlive resolve vm1 --to target`,
		Args: takes("VM"), ValidArgsFunction: a.completeVMs,
		RunE: func(c *cobra.Command, args []string) error {
			if to != "" && !slices.Contains(choices(), to) {
				return usageError{fmt.Errorf("there is no choice %q: write one of %s", to, strings.Join(choices(), ", "))}
			}
			d, err := a.api().Undecided(c.Context(), args[0])
			if err != nil {
				return err
			}
			if to == "" {
				return a.print(printed{value: d, names: []string{d.VM}, table: func(w *tabwriter.Writer) { describeDecision(w, d) }})
			}
			if !yes {
				if err := a.confirm(d, to); err != nil {
					return err
				}
			}
			vm, err := a.api().Resolve(c.Context(), args[0], to)
			if err != nil {
				return err
			}
			return a.printVM(vm, fmt.Sprintf("%s is %s", vm.Name, vm.Status))
		},
	}
	c.Flags().StringVar(&to, "to", "", "who goes on with the guest: source, target, or discard for nobody")
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	if err := c.RegisterFlagCompletionFunc("to", cobra.FixedCompletions(choices(), cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // the flag is defined above
	}
	return c
}

func choices() []string { return []string{"source", "target", "discard"} }

// confirm shows what the decision rests on and asks whether it is meant.
func (a *app) confirm(d vmstate.Decision, to string) error {
	w := tabwriter.NewWriter(a.Stderr, 0, 0, 2, ' ', 0)
	describeDecision(w, d)
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(a.Stderr, "\nresolve %s to %s? Type yes: ", d.VM, to)
	answer, _ := bufio.NewReader(a.Stdin).ReadString('\n') // nothing is no
	if strings.TrimSpace(answer) == "yes" {
		return nil
	}
	e := vmstate.Errorf(vmstate.Cancelled, "cannot resolve %s: it was not confirmed", d.VM).With("type yes, or write --yes; nothing has been done")
	e.VM = d.VM
	return e
}

func describeDecision(w *tabwriter.Writer, d vmstate.Decision) {
	if d.Error != nil {
		fmt.Fprintf(w, "%s\n\n", clean(d.Error.Detail))
	}
	fmt.Fprintln(w, "QEMU\tPID\tVERSION\tIS\tBINARY")
	for _, q := range []struct {
		name string
		vmstate.Witness
	}{{"source", d.Source}, {"target", d.Target}} {
		pid := "-"
		if q.PID != 0 {
			pid = fmt.Sprint(q.PID)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", q.name, pid, orDash(q.Version), meaning(q.Seen), orDash(q.Binary))
	}
	if d.Stranger {
		fmt.Fprintln(w, "\nanother process maps the guest's RAM: find it before anything is let run")
	}
	fmt.Fprintln(w, "\nTO\tPOSSIBLE\tWHAT IT DOES")
	for _, c := range d.Choices {
		possible := "no"
		if c.Allowed {
			possible = "yes"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", c.To, possible, clean(c.Why))
	}
	for _, log := range []string{d.Source.Log, d.Target.Log} {
		if log != "" {
			fmt.Fprintf(w, "\nlog: %s", log)
		}
	}
	fmt.Fprintln(w)
}

// meaning says what is seen of a QEMU in words.
func meaning(seen string) string {
	return cmp.Or(map[string]string{
		"absent": "never started", "dead": "dead", "mute": "alive, silent", "runs": "running the guest", "stands": "standing",
		"moving": "in a migration", "loading": "never ran it", "ended": "at the guest's end",
	}[seen], seen)
}
