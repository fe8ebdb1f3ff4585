// Package client talks to a qlive daemon over its unix socket.
//
//	c := client.New("/run/qlive/qlive.sock")
//	defer c.Close()
//	m, err := c.Migrate(ctx, vmstate.MigrationSpec{VM: "vm1", Binary: "/opt/qemu/bin/qemu-system-x86_64"}, client.NewKey())
//	for m, err := range c.Follow(ctx, m.ID) { … }
//
// Every error is or wraps a [vmstate.Error]: of the daemon's kind if it refused, Unavailable if it does not
// answer, Denied if the socket is closed to the caller. A [Refusal] in its chain holds the whole problem document.
//
// The package imports vmstate and, below it, wire; not the server. A Client may be used by many goroutines at once.
package client
