// Package systemdtest is a service manager for tests: it listens on a notify socket, keeps what it is told and the descriptors that it is
// given to store, and starts a program as systemd would, with sockets and stored descriptors passed on.
//
// It imports testing: it is for tests.
package systemdtest
