package main

import (
	"io"

	"github.com/spf13/cobra"

	"qlive/integration/bench/rehouse"
)

// benchBackingCommand measures how fast guest RAM is moved into another backing.
func benchBackingCommand() *cobra.Command {
	var opts rehouse.Options
	var sizeMiB int
	c := &cobra.Command{
		Use: "backing", Short: "Measure moving memory into another backing, beside a bare parallel memcpy",
		Long: `Measure how fast the memory of a guest that stands is moved into another backing on this machine, chunk by chunk with the old one freed
behind, beside a bare parallel memcpy between the same two, which frees nothing. It runs no guest, needs root and room for huge pages,
and leaves nothing behind. docs/backing.md explains what is moved, and docs/benchmarks.md what came out.`,
	}
	printing(c, func(c *cobra.Command, progress io.Writer) (report, error) {
		opts.Bytes, opts.Progress = sizeMiB<<20, progress
		return whole(rehouse.Run(c.Context(), opts))
	})
	f := c.Flags()
	f.IntVar(&sizeMiB, "size", rehouse.DefaultBytes>>20, "memory of each move in MiB")
	f.IntVar(&opts.Count, "count", rehouse.DefaultCount, "moves between each two backings")
	f.Uint64Var(&opts.Seed, "seed", 0, "of the order and the content; drawn, and printed, if 0")
	return c
}
