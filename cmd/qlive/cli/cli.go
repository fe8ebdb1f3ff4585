package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"qlive/restapi/client"
	"qlive/vmstate"
)

// DefaultSocket is where a daemon listens unless it is told otherwise.
const DefaultSocket = "/run/qlive/qlive.sock"

// Env is what a command has around it.
type Env struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Getenv         func(string) string
	Dir            string // the working directory, absolute
	Version        string
	Root           string // prefix of the paths that doctor looks at; empty but in tests

	// Daemon runs the daemon until ctx ends. Nil: this build has none.
	Daemon func(ctx context.Context, flags DaemonFlags) error
	// Dirs are the run and the state directory of the daemon of this host, which doctor reads while it is dead; empty for what is not known.
	Dirs func() (runDir, stateDir string, err error)
	// Commands are further commands.
	Commands []*cobra.Command
}

// DaemonFlags are what `qlive daemon` was given; empty for what it was not.
type DaemonFlags struct {
	Config, Socket, Mount, RunDir, StateDir, Group, LogLevel string
}

// app is one run of the command.
type app struct {
	Env
	socket   string
	output   string
	noHeader bool
	quiet    bool
	client   *client.Client
}

// usageError is a command line that cannot be understood.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// exitError ends the command with a code that belongs to no kind; what there is to say has been said, if err is nil.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit %d", e.code)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// Run runs the command with its arguments, without its name, and returns the exit code. It ends early, and lets go of
// what it waits for, when ctx ends.
func Run(ctx context.Context, env Env, args []string) int {
	a := &app{Env: env}
	root := a.root()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if a.client != nil {
		a.client.Close()
	}
	if err == nil {
		return vmstate.ExitOK
	}
	return a.fail(err)
}

// fail says what went wrong and gives the exit code.
func (a *app) fail(err error) int {
	if usage, ok := errors.AsType[usageError](err); ok {
		fmt.Fprintf(a.Stderr, "qlive: %v\n", usage.error)
		return vmstate.ExitUsage
	}
	code := -1
	if exit, ok := errors.AsType[*exitError](err); ok {
		if code = exit.code; exit.err == nil {
			return code
		}
	}
	switch {
	case code >= 0:
	case errors.Is(err, context.Canceled):
		return vmstate.ExitInterrupted
	default:
		code = vmstate.KindOf(err).Info().Exit
	}
	for _, e := range flatten(err) {
		a.say(e)
	}
	return code
}

// flatten takes apart what errors.Join put together.
func flatten(err error) []error {
	var several interface{ Unwrap() []error }
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		several = joined
	}
	if several == nil {
		return []error{err}
	}
	var out []error
	for _, e := range several.Unwrap() {
		out = append(out, flatten(e)...)
	}
	return out
}

// say writes one error: as a problem document with -o json, else as people read it.
func (a *app) say(err error) {
	p := vmstate.ProblemOf(err)
	if a.output == "json" {
		if text, err := json.Marshal(p); err == nil {
			fmt.Fprintf(a.Stderr, "%s\n", text)
			return
		}
	}
	var e *vmstate.Error
	if !errors.As(err, &e) {
		fmt.Fprintf(a.Stderr, "qlive: %s\n", clean(err.Error()))
		return
	}
	fmt.Fprintf(a.Stderr, "qlive: %s\n", clean(p.Detail))
	for _, words := range p.QEMU {
		fmt.Fprintf(a.Stderr, "  QEMU: %s\n", clean(words))
	}
	if p.Remedy != "" {
		fmt.Fprintf(a.Stderr, "  → %s\n", clean(p.Remedy))
	}
}

// note writes a line that is not what was asked for.
func (a *app) note(format string, args ...any) {
	if !a.quiet {
		fmt.Fprintf(a.Stderr, format+"\n", args...)
	}
}

// api is the client for the daemon.
func (a *app) api() *client.Client {
	if a.client == nil {
		a.client = client.New(a.socket)
	}
	return a.client
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "qlive",
		Short: "Upgrade QEMU under running guests",
		Long: `qlive upgrades QEMU under running guests: every guest moves into the new binary within a few milliseconds,
without a reboot and without a second copy of its memory, and back again if the new binary does not please.

Commands talk to the daemon (qlive daemon) over its socket. What was asked for goes to standard output, progress
and errors to standard error. docs/cli.md lists the exit codes and describes -o json.`,
		SilenceErrors: true, SilenceUsage: true,
		PersistentPreRunE: func(*cobra.Command, []string) error { return a.checkOutput() },
	}
	root.SetIn(a.Stdin)
	root.SetOut(a.Stdout)
	root.SetErr(a.Stderr)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	flags := root.PersistentFlags()
	flags.StringVar(&a.socket, "socket", cmp.Or(a.Getenv("QLIVE_SOCKET"), DefaultSocket), "the daemon's socket; QLIVE_SOCKET sets it too")
	flags.Lookup("socket").DefValue = DefaultSocket
	flags.StringVarP(&a.output, "output", "o", "table", "what to print: table, json, yaml or name")
	flags.BoolVar(&a.noHeader, "no-header", false, "leave out the headings of tables")
	flags.BoolVarP(&a.quiet, "quiet", "q", false, "no progress and no notes")
	root.AddGroup(&cobra.Group{ID: "vm", Title: "VMs:"}, &cobra.Group{ID: "move", Title: "Handoffs:"}, &cobra.Group{ID: "host", Title: "Daemon and host:"})
	a.add(root, "vm", a.runCmd(), a.adoptCmd(), a.startCmd(), a.listCmd(), a.showCmd(), a.statusCmd(), a.pauseCmd(), a.resumeCmd(), a.resetCmd(), a.powerdownCmd(), a.stopCmd(), a.rmCmd(), a.consoleCmd(), a.logCmd())
	a.add(root, "move", a.migrateCmd(), a.upgradeCmd(), a.rollbackCmd(), a.migrationCmd(), a.resolveCmd())
	a.add(root, "host", a.daemonCmd(), a.eventCmd(), a.doctorCmd(), a.versionCmd())
	a.add(root, "host", a.Commands...)
	checkArgs(root)
	root.SetHelpCommandGroupID("host")
	root.SetCompletionCommandGroupID("host")
	if err := root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(outputs(), cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // the flag is defined above
	}
	return root
}

// add puts commands into a group.
func (a *app) add(parent *cobra.Command, group string, commands ...*cobra.Command) {
	for _, c := range commands {
		if c == nil {
			continue
		}
		c.GroupID = group
		parent.AddCommand(c)
	}
}

// checkArgs makes usage errors of what cobra says about the arguments of a command and those below it.
func checkArgs(c *cobra.Command) {
	if check := c.Args; check != nil {
		c.Args = func(c *cobra.Command, args []string) error {
			if err := check(c, args); err != nil {
				return usageError{fmt.Errorf("%w\nusage: %s", err, c.UseLine())}
			}
			return nil
		}
	}
	if c.HasSubCommands() {
		c.Args = cobra.ArbitraryArgs // for RunE to look at
		own := c.RunE
		c.RunE = func(c *cobra.Command, args []string) error {
			switch {
			case len(args) == 0 && own != nil:
				return own(c, args)
			case len(args) == 0:
				return c.Help()
			}
			return usageError{fmt.Errorf("there is no command %q%s", c.CommandPath()+" "+args[0], suggestion(c, args[0]))}
		}
		for _, sub := range c.Commands() {
			checkArgs(sub)
		}
	}
}

// takes is for a command that takes just these arguments.
func takes(names ...string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		switch {
		case len(args) < len(names):
			return fmt.Errorf("%s is missing", names[len(args)])
		case len(args) > len(names):
			return fmt.Errorf("%q is too much", args[len(names)])
		}
		return nil
	}
}

// takesSome is for a command that takes one argument or more.
func takesSome(name string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) == 0 {
			return fmt.Errorf("%s is missing", name)
		}
		return nil
	}
}

// suggestion is what may have been meant.
func suggestion(c *cobra.Command, word string) string {
	c.SuggestionsMinimumDistance = 2
	if like := c.SuggestionsFor(word); len(like) > 0 {
		return "; is it " + strings.Join(like, ", ") + "?"
	}
	return "\nsee: " + c.CommandPath() + " --help"
}

func outputs() []string { return []string{"table", "json", "yaml", "name"} }

func (a *app) checkOutput() error {
	for _, o := range outputs() {
		if a.output == o {
			return nil
		}
	}
	return usageError{fmt.Errorf("there is no output %q: choose one of %s", a.output, strings.Join(outputs(), ", "))}
}

// completeVMs completes the names of VMs.
func (a *app) completeVMs(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	vms, err := a.api().VMs(c.Context())
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var names []string
	for _, vm := range vms {
		names = append(names, vm.Name+"\t"+string(vm.Status))
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// completeMigrations completes the ids of migrations.
func (a *app) completeMigrations(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	migrations, err := a.api().Migrations(c.Context(), "")
	if err != nil || len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var ids []string
	for _, m := range migrations {
		ids = append(ids, m.ID+"\t"+m.VM+" "+string(m.Phase))
	}
	return ids, cobra.ShellCompDirectiveNoFileComp
}
