package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"qlive/integration/demo"
	"qlive/vmstate"
)

// demoCommand is `qlive demo`.
func demoCommand() *cobra.Command {
	var o demo.Options
	c := &cobra.Command{
		Use: "demo", Short: "Hand a running guest through every QEMU there is, and show what it cost",
		Long: `Start a daemon and a Linux guest, hand the guest from QEMU 7.2 to 10.0, to 11.1 and back, and show what the guest
felt of it. It uses nothing of a daemon that runs already, and leaves nothing behind. It needs root, /dev/fuse, and what
make demo installs. The exit code is 0 if no beat was lost and memory is what it was.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			program, err := os.Executable()
			if err != nil {
				return vmstate.Errorf(vmstate.Host, "cannot tell where this program lies: %w", err)
			}
			o.Stdout, o.Getenv, o.Program = c.OutOrStdout(), os.Getenv, program
			return demo.Run(c.Context(), o)
		},
	}
	c.Flags().IntVar(&o.MemoryMiB, "memory", demo.DefaultMemoryMiB, fmt.Sprintf("RAM of the guest in MiB, %d at least", demo.MinMemoryMiB))
	c.Flags().StringVar(&o.Accel, "accel", "", "run the guest on kvm or tcg; KVM if it runs Linux here, else TCG")
	c.Flags().StringVar(&o.Dir, "dir", "", "make its folder here (/run)")
	return c
}
