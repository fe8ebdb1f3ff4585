// Package qmptest is the far end of a monitor for tests: a server on a unix socket that says what a script makes it
// say, byte by byte if need be.
//
//	path := qmptest.Listen(t, func(c *qmptest.Conn) {
//		c.Handshake()
//		c.Return(c.Expect("stop"), nil)
//		c.Event("STOP", nil)
//	})
//
// It is for corners of the protocol that a real QEMU will not go into on request. It must not import package qmp,
// so that a mistake there is not made here again.
package qmptest
