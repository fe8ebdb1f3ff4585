package cli

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"qlive/restapi/client"
)

// leaveKey ends an interactive console: Ctrl-], as in telnet and virsh.
const leaveKey = 0x1d

// screenful is how much of the past an interactive console shows, in bytes.
const screenful = 4096

func (a *app) consoleCmd() *cobra.Command {
	var once bool
	c := &cobra.Command{
		Use: "console VM", Short: "Be at a guest's serial console",
		Long: `Print what the guest writes on its serial console, and follow it across handoffs. On a terminal what is typed goes to
the guest, and Ctrl-] leaves; else all there is is printed first, and it ends when the VM has stopped.`,
		Args: takes("VM"), ValidArgsFunction: a.completeVMs,
		RunE: func(c *cobra.Command, args []string) error {
			keyboard, isTerminal := terminal(a.Stdin)
			if isTerminal && !once {
				return a.interact(c.Context(), args[0], keyboard)
			}
			return a.copyLog(c.Context(), args[0], client.Tail{Follow: !once}, a.api().Console)
		},
	}
	c.Flags().BoolVar(&once, "once", false, "print what there is, and end")
	return c
}

func (a *app) logCmd() *cobra.Command {
	var follow bool
	c := &cobra.Command{
		Use: "log VM", Short: "Print what a VM's QEMU wrote on its standard error", Args: takes("VM"), ValidArgsFunction: a.completeVMs,
		RunE: func(c *cobra.Command, args []string) error {
			return a.copyLog(c.Context(), args[0], client.Tail{Follow: follow}, a.api().Log)
		},
	}
	c.Flags().BoolVarP(&follow, "follow", "f", false, "go on with what comes")
	return c
}

func (a *app) copyLog(ctx context.Context, vm string, tail client.Tail, open func(context.Context, string, client.Tail) (io.ReadCloser, error)) error {
	text, err := open(ctx, vm, tail)
	if err != nil {
		return err
	}
	defer text.Close()
	_, err = io.Copy(a.Stdout, text)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// interact connects a terminal to the guest's console.
func (a *app) interact(ctx context.Context, vm string, keyboard *os.File) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	past := int64(screenful)
	text, err := a.api().Console(ctx, vm, client.Tail{Follow: true, Bytes: &past})
	if err != nil {
		return err
	}
	a.note("at the console of %s; Ctrl-] leaves", vm)
	before, err := term.MakeRaw(int(keyboard.Fd()))
	if err != nil {
		return errors.Join(err, text.Close())
	}
	typed := make(chan error, 1)
	go func() { typed <- a.typeFrom(ctx, vm, keyboard); cancel() }()
	_, readErr := io.Copy(a.Stdout, text)
	stopped := ctx.Err() == nil // the guest's side ended, not ours
	cancel()
	err = <-typed
	if restoreErr := term.Restore(int(keyboard.Fd()), before); restoreErr != nil {
		err = errors.Join(err, restoreErr)
	}
	closeErr := text.Close()
	switch {
	case err != nil:
		return err
	case stopped:
		a.note("\n%s is gone or has stopped", vm)
		return errors.Join(readErr, closeErr)
	}
	a.note("\nleft the console of %s", vm)
	return nil
}

// typeFrom sends what is typed until the leave key, the end of the input, or of ctx.
func (a *app) typeFrom(ctx context.Context, vm string, keyboard *os.File) error {
	buf := make([]byte, 1024)
	for ctx.Err() == nil {
		// Read would hold this goroutine after ctx has ended: wait for input first, a little at a time.
		fds := []unix.PollFd{{Fd: int32(keyboard.Fd()), Events: unix.POLLIN}}
		if n, err := unix.Poll(fds, 100); n == 0 || errors.Is(err, unix.EINTR) {
			continue
		} else if err != nil {
			return err
		}
		n, err := keyboard.Read(buf)
		input, _, leave := bytes.Cut(buf[:n], []byte{leaveKey})
		if len(input) > 0 {
			if err := a.api().Type(ctx, vm, input); err != nil {
				if ctx.Err() != nil {
					return nil
				}
				return err
			}
		}
		if leave || errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}
