// Package qmp speaks the QEMU Machine Protocol with one QEMU over one unix socket.
//
//	c, err := qmp.Dial(ctx, "/run/qlive/vm1/1/qmp.sock", qmp.Options{Exited: process.Done()})
//	if err != nil { … }
//	defer c.Close()
//	events := c.Subscribe(qmp.EventMigration) // before the command that causes them
//	defer events.Close()
//	if err := c.Migrate(ctx, "fd:channel"); err != nil { … }
//	last, err := events.Until(ctx, qmp.MigrationIn(qmp.MigrationCompleted, qmp.MigrationFailed))
//
// # Commands
//
// Do sends a command and waits for its reply. Start and StartAll send without waiting, several commands in one
// write, and give a Call for each; QEMU executes them in order. QEMU reads a monitor byte by byte, about 3 µs each,
// so commands are written without a blank, and what is pipelined behind a command is read while that one executes.
// DoWithFile sends one descriptor together with its command, in the same sendmsg.
//
// A context bounds one call. One without a deadline gets the command's own, from the table in timeouts.go. A call that
// times out wraps context.DeadlineExceeded, names the command, and leaves the connection as it is: the QEMU behind it
// may be busy, not dead, and may still carry the command out. A reply that comes after its caller has gone is shown to
// the observers and dropped.
//
// # Invariants
//
//   - One goroutine reads, from Dial to Close; Close waits for it. Nothing that a subscriber or a caller does or
//     leaves undone can stop it. Observers are called by it, and must not block.
//   - An event is never dropped silently: a subscriber that does not read is closed with ErrSlow as the reason.
//   - Time of receipt is taken when the read that completed the message returned, on the monotonic clock.
//   - When the connection ends, each waiting call fails with ErrClosed and the cause; subscribers get what was queued,
//     then the same error.
//   - A descriptor given to this package stays the caller's: it is sent, never closed.
//
// Lock order: a Client's turn to send, then its mutex, then a Subscription's mutex.
//
// Each command and member name used here is listed by Surface, and compared with query-qmp-schema of the real
// binaries by the tests.
//
// The package must not import anything of qlive.
package qmp
