package main

import (
	"io"
	"os"

	"github.com/spf13/cobra"

	"qlive/integration/bench/pageflip"
	"qlive/vmstate"
)

// benchFlipCommand measures the ways to get memory from one process into another.
func benchFlipCommand() *cobra.Command {
	var opts pageflip.Options
	var sizeMiB int
	c := &cobra.Command{
		Use: "flip", Short: "Measure page flipping beside copying, and beside passing the memory's file",
		Long: `Measure the ways to get memory from one process into another on this machine: by vmsplice and splice through a pipe that is passed
by SCM_RIGHTS, which was to move the pages themselves, by plain copies, and by passing the file that the memory lies in. Two processes
are started for each move; whether a page was truly moved is seen by its page frame number. It runs no guest, needs root and memory
for two copies, and leaves nothing behind. docs/flipping.md explains what came out.`,
	}
	printing(c, func(c *cobra.Command, progress io.Writer) (report, error) {
		program, err := os.Executable()
		if err != nil {
			return nil, vmstate.Errorf(vmstate.Host, "cannot find the program itself: %w", err)
		}
		opts.Bytes, opts.Peer, opts.Progress = sizeMiB<<20, []string{program, "bench", peerUse}, progress
		return whole(pageflip.Run(c.Context(), opts))
	})
	f := c.Flags()
	f.IntVar(&sizeMiB, "size", pageflip.DefaultBytes>>20, "memory of each move in MiB")
	f.IntVar(&opts.Count, "count", pageflip.DefaultCount, "moves by each route")
	f.Uint64Var(&opts.Seed, "seed", 0, "of the order and the content; drawn, and printed, if 0")
	return c
}

const peerUse = "flip-peer"

// benchFlipPeerCommand is one of the two processes of a move. Only `bench flip` calls it.
func benchFlipPeerCommand() *cobra.Command {
	return &cobra.Command{
		Use: peerUse, Hidden: true, Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return pageflip.Peer() },
	}
}
