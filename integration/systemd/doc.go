// Package systemd tests qlive as a service: the units that are shipped, by systemd's own tools, and the program with a manager that
// speaks systemd's protocol.
package systemd
