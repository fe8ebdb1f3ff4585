package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"qlive/integration/bench"
	"qlive/integration/bench/postcopy"
	"qlive/vmstate"
)

// benchPostcopyCommand measures mode postcopy.
func benchPostcopyCommand() *cobra.Command {
	opts := postcopy.Default()
	var format string
	c := &cobra.Command{
		Use: "postcopy", Short: "Measure mode postcopy beside a bare postcopy by hand",
		Long: `Measure how guests with private RAM are moved into memory of qlive's, by qlive's mode postcopy and by a bare postcopy as somebody
would write it by hand, in alternating pairs. It boots a guest for each move and needs root, and the QEMUs and the kernel that make setup
provides. docs/postcopy.md explains the mode.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if !slices.Contains(bench.Formats(), format) {
				return vmstate.Errorf(vmstate.Invalid, "cannot print %q", format).With("choose from " + strings.Join(bench.Formats(), ", "))
			}
			if quiet, err := c.Flags().GetBool("quiet"); err != nil || !quiet {
				opts.Progress = c.ErrOrStderr()
			}
			report, err := postcopy.Run(c.Context(), opts)
			if err != nil {
				return err
			}
			if err := report.Write(c.OutOrStdout(), format); err != nil {
				return fmt.Errorf("cannot print the report: %w", err)
			}
			return nil
		},
	}
	f := c.Flags()
	f.IntVar(&opts.Pairs, "count", opts.Pairs, "pairs of moves")
	f.IntVar(&opts.MiB, "size", opts.MiB, "RAM of each guest in MiB")
	f.IntVar(&opts.FillMiB, "fill", opts.FillMiB, "MiB of it that the guest has filled")
	f.StringVarP(&format, "output", "o", "table", "what to print: "+strings.Join(bench.Formats(), ", "))
	return c
}
