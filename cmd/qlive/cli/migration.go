package cli

import (
	"context"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"qlive/vmstate"
)

func (a *app) migrationCmd() *cobra.Command {
	c := &cobra.Command{Use: "migration", Short: "Look at migrations, and act on them"}
	c.AddCommand(a.migrationListCmd(), a.migrationShowCmd(), a.migrationWaitCmd(), a.migrationContinueCmd(), a.migrationCancelCmd(), a.migrationTraceCmd())
	return c
}

// onMigration is a command about one migration.
func (a *app) onMigration(name, short string, run func(ctx context.Context, id string) error) *cobra.Command {
	return &cobra.Command{Use: name + " ID", Short: short, Args: takes("ID"), ValidArgsFunction: a.completeMigrations,
		RunE: func(c *cobra.Command, args []string) error { return run(c.Context(), args[0]) }}
}

func (a *app) migrationListCmd() *cobra.Command {
	var vm string
	c := &cobra.Command{Use: "list", Aliases: []string{"ls"}, Short: "List migrations, newest first", Args: takes(), RunE: func(c *cobra.Command, _ []string) error {
		migrations, err := a.api().Migrations(c.Context(), vm)
		if err != nil {
			return err
		}
		return a.printMigrations(migrations)
	}}
	c.Flags().StringVar(&vm, "vm", "", "only of this VM")
	if err := c.RegisterFlagCompletionFunc("vm", a.completeVMs); err != nil {
		panic(err) // the flag is defined above
	}
	return c
}

func (a *app) migrationShowCmd() *cobra.Command {
	return a.onMigration("show", "Show a migration", func(ctx context.Context, id string) error {
		m, err := a.api().Migration(ctx, id, 0)
		if err != nil {
			return err
		}
		return a.print(printed{value: m, names: []string{m.ID}, table: func(w *tabwriter.Writer) { describeMigration(w, m) }})
	})
}

func describeMigration(w *tabwriter.Writer, m vmstate.Migration) {
	line := func(name, format string, args ...any) {
		fmt.Fprintf(w, "%s:\t%s\n", name, clean(fmt.Sprintf(format, args...)))
	}
	line("id", "%s", m.ID)
	line("vm", "%s", m.VM)
	line("phase", "%s: %s", m.Phase, m.Phase.Info().Does)
	line("progress", "%d%%", m.Progress)
	line("mode", "%s, %s", m.Mode, m.Way)
	line("from", "%s %s, pid %d", orDash(m.From.Version), m.From.Binary, m.From.PID)
	line("to", "%s %s, pid %d", orDash(m.To.Version), m.To.Binary, m.To.PID)
	line("started", "%s", m.StartedAt.UTC().Format(time.RFC3339Nano))
	line("pause", "%s, by QEMU's clock %s", micros(m.PauseUS), micros(m.QEMUPause))
	if m.UndoUS != nil {
		line("undo", "%s", micros(m.UndoUS))
	}
	line("total", "%s", micros(&m.TotalUS))
	line("extra memory", "%s", size(m.ExtraBytes))
	for _, p := range m.Phases {
		line("  "+string(p.Phase), "+%.2f ms, for %s", float64(p.At.Sub(m.StartedAt))/float64(time.Millisecond), micros(&p.US))
	}
	for _, r := range m.Regions {
		text := fmt.Sprintf("%s, %d%% of %s", r.State, r.Progress, size(r.TotalBytes))
		if r.Note != "" {
			text += ", " + r.Note
		}
		line("region "+r.Name, "%s", text)
	}
	for _, warning := range m.Warnings {
		line("warning", "%s", warning)
	}
	for _, entry := range m.Log {
		line("log", "%s %s", entry.At.UTC().Format("15:04:05.000"), entry.Text)
	}
	if p := m.Error; p != nil {
		line("error", "%s", p.Detail)
		line("step", "%s", orDash(p.Step))
		for _, words := range p.QEMU {
			line("qemu", "%s", words)
		}
		line("remedy", "%s", orDash(p.Remedy))
	}
}

func (a *app) migrationWaitCmd() *cobra.Command {
	var timeout time.Duration
	c := a.onMigration("wait", "Wait for a migration's end, and tell by the exit code how it ended", func(ctx context.Context, id string) error {
		m, err := a.api().Migration(ctx, id, 0)
		if err != nil {
			return err
		}
		if timeout > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, timeout)
			defer cancel()
		}
		return a.finish(ctx, m, false, false)
	})
	c.Flags().DurationVar(&timeout, "timeout", 0, "wait at most so long; the migration goes on all the same")
	return c
}

func (a *app) migrationContinueCmd() *cobra.Command {
	var detach bool
	c := a.onMigration("continue", "Let a migration that holds go on, and wait for its end", func(ctx context.Context, id string) error {
		m, err := a.api().Continue(ctx, id)
		if err != nil {
			return err
		}
		return a.finish(ctx, m, detach, false)
	})
	c.Flags().BoolVar(&detach, "detach", false, "do not wait for the end")
	return c
}

func (a *app) migrationCancelCmd() *cobra.Command {
	return a.onMigration("cancel", "Cancel a migration that has not begun to switch, and wait for its end", func(ctx context.Context, id string) error {
		m, err := a.api().Cancel(ctx, id)
		if err != nil {
			return err
		}
		if m, err = a.await(ctx, m, false); err != nil {
			return err
		}
		if err := a.printMigration(m); err != nil || m.Phase == vmstate.Aborted {
			return err
		}
		return verdict(m)
	})
}

func (a *app) migrationTraceCmd() *cobra.Command {
	return a.onMigration("trace", "Print where the time of a migration went, in Chrome's trace format, for ui.perfetto.dev", func(ctx context.Context, id string) error {
		text, err := a.api().Trace(ctx, id)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(a.Stdout, "%s\n", text)
		return err
	})
}
