package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"qlive/integration/bench"
	"qlive/vmstate"
)

// benchCommand measures handoffs on this machine.
func benchCommand() *cobra.Command {
	var opts bench.Options
	var format string
	c := &cobra.Command{
		Use: "bench", Short: "Measure handoffs on this machine, beside bare clients and QEMU's own ways",
		Long: `Measure handoffs on this machine: qlive's, through a daemon of its own, and in turn with them those of bare clients that do the
least that works, and QEMU's plain precopy and cpr-transfer. It boots guests of its own and needs root, the QEMUs and the kernel
that make setup provides, and, for the group pages, room for huge pages. A full run takes some 25 minutes; it wants the
machine for itself. Ctrl-C ends it and leaves nothing behind. docs/benchmarks.md explains the table.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if !slices.Contains(bench.Formats(), format) {
				return vmstate.Errorf(vmstate.Invalid, "cannot print %q", format).With("choose from " + strings.Join(bench.Formats(), ", "))
			}
			binary, err := os.Executable()
			if err != nil {
				return vmstate.Errorf(vmstate.Host, "cannot find the program itself: %w", err)
			}
			opts.Qlive = binary
			if quiet, err := c.Flags().GetBool("quiet"); err != nil || !quiet {
				opts.Progress = c.ErrOrStderr()
			}
			return measure(c.Context(), opts, c.OutOrStdout(), format)
		},
	}
	c.AddCommand(benchFlipCommand(), benchFlipPeerCommand(), benchPostcopyCommand(), benchBackingCommand())
	f := c.Flags()
	f.StringSliceVar(&opts.Groups, "rows", nil, "what to measure: "+strings.Join(bench.Groups(), ", ")+" (all)")
	f.IntVar(&opts.Count, "count", 0, "handoffs in each row (50; 5 with --quick)")
	f.BoolVar(&opts.Quick, "quick", false, "fewer sizes and handoffs: to see that it works")
	f.Uint64Var(&opts.Seed, "seed", 0, "of the order of handoffs; drawn, and printed, if 0")
	f.StringVarP(&format, "output", "o", "table", "what to print: "+strings.Join(bench.Formats(), ", "))
	return c
}

// measure prints what could be measured, whether or not all could.
func measure(ctx context.Context, opts bench.Options, out io.Writer, format string) error {
	report, err := bench.Run(ctx, opts)
	if len(report.Rows) > 0 {
		if e := report.Write(out, format); e != nil {
			err = errors.Join(err, fmt.Errorf("cannot print the report: %w", e))
		}
	}
	return err
}
