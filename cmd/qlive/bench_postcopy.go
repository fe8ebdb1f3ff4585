package main

import (
	"io"

	"github.com/spf13/cobra"

	"qlive/integration/bench/postcopy"
)

// benchPostcopyCommand measures mode postcopy.
func benchPostcopyCommand() *cobra.Command {
	opts := postcopy.Default()
	c := &cobra.Command{
		Use: "postcopy", Short: "Measure mode postcopy beside a bare postcopy by hand",
		Long: `Measure how guests with private RAM are moved into memory of qlive's, by qlive's mode postcopy and by a bare postcopy as somebody
would write it by hand, in alternating pairs. It boots a guest for each move and needs root, and the QEMUs and the kernel that make setup
provides. docs/postcopy.md explains the mode.`,
	}
	printing(c, func(c *cobra.Command, progress io.Writer) (report, error) {
		opts.Progress = progress
		return whole(postcopy.Run(c.Context(), opts))
	})
	f := c.Flags()
	f.IntVar(&opts.Pairs, "count", opts.Pairs, "pairs of moves")
	f.IntVar(&opts.MiB, "size", opts.MiB, "RAM of each guest in MiB")
	f.IntVar(&opts.FillMiB, "fill", opts.FillMiB, "MiB of it that the guest has filled")
	return c
}
