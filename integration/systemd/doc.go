// Package systemd tests qlive as a service: the units that are shipped, by systemd's own tools and by a systemd that runs in namespaces of its own
// (testdata/scene.sh), and the daemon, word for word, with a manager that speaks systemd's protocol.
package systemd
