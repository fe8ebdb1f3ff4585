// Package systemd is how this process and its service manager talk: what the manager passed on at the start (sockets, stored
// descriptors, a watchdog), and what the process tells it later (sd_notify(3)).
//
//	service, err := systemd.Open(systemd.Process())
//	sockets := service.Take(func(f systemd.File) bool { return f.Name == "qlive.sock" })
//	…
//	service.Notify(systemd.Ready, systemd.Status("serving"))
//	service.Store("ram-vm1-pc.ram", file)
//
// What holds:
//
//   - A nil *Service, which is what a process without a manager has, does nothing and has received nothing.
//   - What the environment said is taken out of it once read: no child takes itself for the service.
//   - Every descriptor received is closed on exec. It belongs to whoever takes it.
//   - A message is one datagram, and the manager acts on them in the order in which they were sent. It never answers: that a
//     descriptor was sent is all that the sender knows. So the store is a second holder, never the only one.
//   - A message that the manager does not take within [SendLimit] is an error, not a wait without end.
//   - Nothing is kept beside the [Service]; its methods may be called from any goroutine.
//
// The protocol is written here rather than taken from github.com/coreos/go-systemd, which knows no descriptor store: neither
// FDSTORE nor the removal of what is in it.
//
// The package must not import anything of qlive but vmstate.
package systemd
