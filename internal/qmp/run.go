package qmp

import (
	"context"
	"errors"
)

// RunState is what a QEMU does with its guest, in QEMU's words. Newer versions may know further ones.
type RunState string

// The run states of QEMU 7.2 to 11.1.
const (
	RunDebug         RunState = "debug"
	RunInMigrate     RunState = "inmigrate" // waits for an incoming migration
	RunInternalError RunState = "internal-error"
	RunIOError       RunState = "io-error"
	RunPaused        RunState = "paused"
	RunPostMigrate   RunState = "postmigrate" // its guest has been migrated away
	RunPrelaunch     RunState = "prelaunch"   // started with -S
	RunFinishMigrate RunState = "finish-migrate"
	RunRestoreVM     RunState = "restore-vm"
	RunRunning       RunState = "running"
	RunSaveVM        RunState = "save-vm"
	RunShutdown      RunState = "shutdown"
	RunSuspended     RunState = "suspended"
	RunWatchdog      RunState = "watchdog"
	RunGuestPanicked RunState = "guest-panicked"
	RunColo          RunState = "colo"
)

// Status is whether, and why not, a QEMU runs its vCPUs.
type Status struct {
	Running bool     `json:"running"`
	Status  RunState `json:"status"`
}

// QueryStatus asks for the run state.
func (c *Client) QueryStatus(ctx context.Context) (Status, error) {
	status, err := ask[Status](ctx, c, "query-status", nil)
	status.Status = RunState(shortened(string(status.Status)))
	return status, err
}

// StopCommand stops the vCPUs. For StartAll.
func StopCommand() Command { return Command{Name: "stop"} }

// Stop stops the vCPUs. When it returns nil they stand still, and disks are flushed.
func (c *Client) Stop(ctx context.Context) error { return c.run(ctx, StopCommand()) }

// ContCommand runs the vCPUs. For StartAll.
func ContCommand() Command { return Command{Name: "cont"} }

// Cont runs the vCPUs. When it returns nil the guest runs, unless it is suspended; with an incoming migration pending
// QEMU merely notes the wish.
func (c *Client) Cont(ctx context.Context) error { return c.run(ctx, ContCommand()) }

// SystemReset resets the guest. It returns before the reset has happened, which the event RESET tells.
func (c *Client) SystemReset(ctx context.Context) error {
	return c.run(ctx, Command{Name: "system_reset"})
}

// SystemPowerdown presses the guest's power button.
func (c *Client) SystemPowerdown(ctx context.Context) error {
	return c.run(ctx, Command{Name: "system_powerdown"})
}

// Quit ends QEMU, at once. That QEMU hangs up instead of replying is no error.
func (c *Client) Quit(ctx context.Context) error {
	err := c.run(ctx, Command{Name: "quit"})
	if errors.Is(err, errHungUp) {
		return nil
	}
	return err
}

func (c *Client) run(ctx context.Context, command Command) error {
	return c.Do(ctx, command.Name, command.Args, nil)
}

// ask executes a command that returns a T.
func ask[T any](ctx context.Context, c *Client, command string, args any) (T, error) {
	var out T
	err := c.Do(ctx, command, args, &out)
	return out, err
}
