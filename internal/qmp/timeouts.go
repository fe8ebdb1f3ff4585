package qmp

import (
	"context"
	"time"
)

// timeoutOf is how long a command may take when the caller's context sets no deadline. It is far above what the
// command needs on a healthy host: its purpose is that nobody waits for ever for a QEMU that hangs.
func timeoutOf(command string) time.Duration {
	switch command {
	case "stop", "cont": // flush and reopen disk images
		return 30 * time.Second
	case "xen-save-devices-state", "migrate", "migrate-incoming", "migrate-start-postcopy", "migrate_cancel":
		return 30 * time.Second
	case "query-migrate", "query-block", "query-named-block-nodes": // wait for locks that a busy QEMU holds
		return 30 * time.Second
	case "device_add", "device_del", "netdev_add", "netdev_del", "blockdev-add", "blockdev-del":
		return 30 * time.Second
	case "human-monitor-command":
		return 30 * time.Second
	case "qom-set", "object-add": // may allocate all of the guest's memory
		return 10 * time.Minute
	default:
		return 5 * time.Second
	}
}

// bounded gives ctx the command's own deadline if it has none. The time that has passed since the command was sent
// counts.
func bounded(ctx context.Context, command string, sent time.Time) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithDeadline(ctx, sent.Add(timeoutOf(command)))
}
