// Package restapitest holds a [Service] in memory for tests of what stands on the REST interface: the API
// itself, its client, the command line. It keeps the promises of restapi.Service about snapshots and events, and
// moves its migrations through the phases of vmstate's table; there is no QEMU behind it.
//
// It must not be imported by anything but tests.
package restapitest
