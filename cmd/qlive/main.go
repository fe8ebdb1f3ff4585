// Command qlive upgrades QEMU under running guests: the daemon and every verb that asks it for something.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"qlive/cmd/qlive/cli"
	"qlive/internal/relay"
	"qlive/vmstate"
)

// version is set by the linker.
var version = "unknown"

func main() {
	if len(os.Args) == 2 && os.Args[1] == relay.Verb { // by the daemon: no command of anybody's
		os.Exit(relay.Main())
	}
	os.Exit(run())
}

func run() int {
	dir, err := os.Getwd()
	if err != nil {
		fmt.Fprintf(os.Stderr, "qlive: cannot tell the working directory: %v\n", err)
		return vmstate.ExitOther
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // the second signal ends the process at once
	return cli.Run(ctx, cli.Env{
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Getenv: os.Getenv, Dir: dir, Version: version,
		Daemon: serve, Dirs: dirs, Commands: []*cobra.Command{benchCommand(), demoCommand()},
	}, os.Args[1:])
}
