package main

import (
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
	c := &cobra.Command{
		Use: "bench", Short: "Measure handoffs on this machine, beside bare clients and QEMU's own ways",
		Long: `Measure handoffs on this machine: qlive's, through a daemon of its own, and in turn with them those of bare clients that do the
least that works, and QEMU's plain precopy and cpr-transfer. It boots guests of its own and needs root, the QEMUs and the kernel
that make setup provides, and, for the group pages, room for huge pages. A full run takes some 25 minutes; it wants the
machine for itself. Ctrl-C ends it and leaves nothing behind. docs/benchmarks.md explains the table.`,
	}
	printing(c, func(c *cobra.Command, progress io.Writer) (report, error) {
		binary, err := os.Executable()
		if err != nil {
			return nil, vmstate.Errorf(vmstate.Host, "cannot find the program itself: %w", err)
		}
		opts.Qlive, opts.Progress = binary, progress
		r, err := bench.Run(c.Context(), opts)
		if len(r.Rows) == 0 {
			return nil, err
		}
		return r, err
	})
	c.AddCommand(benchFlipCommand(), benchFlipPeerCommand(), benchPostcopyCommand(), benchBackingCommand())
	f := c.Flags()
	f.StringSliceVar(&opts.Groups, "rows", nil, "what to measure: "+strings.Join(bench.Groups(), ", ")+" (all)")
	f.IntVar(&opts.Count, "count", 0, "handoffs in each row (50; 5 with --quick)")
	f.BoolVar(&opts.Quick, "quick", false, "fewer sizes and handoffs: to see that it works")
	f.Uint64Var(&opts.Seed, "seed", 0, "of the order of handoffs; drawn, and printed, if 0")
	return c
}

// report is what was measured.
type report interface {
	Write(w io.Writer, format string) error
}

// printing makes c run a benchmark and print its report, also if not all could be measured. The report is nil if nothing was.
func printing(c *cobra.Command, run func(c *cobra.Command, progress io.Writer) (report, error)) {
	var format string
	formats := strings.Join(bench.Formats(), ", ")
	c.Flags().StringVarP(&format, "output", "o", "table", "what to print: "+formats)
	c.Args = cobra.NoArgs
	c.RunE = func(c *cobra.Command, _ []string) error {
		if !slices.Contains(bench.Formats(), format) {
			return vmstate.Errorf(vmstate.Invalid, "cannot print %q", format).With("choose from " + formats)
		}
		progress := io.Discard
		if quiet, err := c.Flags().GetBool("quiet"); err != nil || !quiet {
			progress = c.ErrOrStderr()
		}
		r, err := run(c, progress)
		if r == nil {
			return err
		}
		if e := r.Write(c.OutOrStdout(), format); e != nil {
			err = errors.Join(err, fmt.Errorf("cannot print the report: %w", e))
		}
		return err
	}
}

// whole is a report that counts only if all was measured.
func whole[R report](r R, err error) (report, error) {
	if err != nil {
		return nil, err
	}
	return r, nil
}
