package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"qlive/integration/bench"
	"qlive/integration/bench/rehouse"
	"qlive/vmstate"
)

// benchBackingCommand measures how fast guest RAM is moved into another backing.
func benchBackingCommand() *cobra.Command {
	var opts rehouse.Options
	var format string
	var sizeMiB int
	c := &cobra.Command{
		Use: "backing", Short: "Measure moving memory into another backing, beside a bare parallel memcpy",
		Long: `Measure how fast the memory of a guest that stands is moved into another backing on this machine, chunk by chunk with the old one freed
behind, beside a bare parallel memcpy between the same two, which frees nothing. It runs no guest, needs root and room for huge pages,
and leaves nothing behind. docs/backing.md explains what is moved, and docs/benchmarks.md what came out.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if !slices.Contains(bench.Formats(), format) {
				return vmstate.Errorf(vmstate.Invalid, "cannot print %q", format).With("choose from " + strings.Join(bench.Formats(), ", "))
			}
			opts.Bytes = sizeMiB << 20
			if quiet, err := c.Flags().GetBool("quiet"); err != nil || !quiet {
				opts.Progress = c.ErrOrStderr()
			}
			report, err := rehouse.Run(c.Context(), opts)
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
	f.IntVar(&sizeMiB, "size", rehouse.DefaultBytes>>20, "memory of each move in MiB")
	f.IntVar(&opts.Count, "count", rehouse.DefaultCount, "moves between each two backings")
	f.Uint64Var(&opts.Seed, "seed", 0, "of the order and the content; drawn, and printed, if 0")
	f.StringVarP(&format, "output", "o", "table", "what to print: "+strings.Join(bench.Formats(), ", "))
	return c
}
