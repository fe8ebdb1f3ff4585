// Package cli is the qlive command: every verb that asks a daemon for something, the daemon's own verb, and doctor,
// which works without a daemon.
//
//	code := cli.Run(ctx, cli.Env{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, …}, os.Args[1:])
//
// Invariants:
//
//   - Standard output holds what was asked for and nothing else; progress, notes and errors go to standard error.
//   - The exit code follows from the kind of the error, by vmstate's table.
//   - A wait that is interrupted ends the wait and nothing else.
//   - Nothing is read from the process's globals but through [Env].
//
// The package imports restapi/client and vmstate, and for doctor internal/qemu, which asks binaries, and daemon/survey, which reads what
// a dead daemon has left; the daemon itself is handed to it.
package cli
