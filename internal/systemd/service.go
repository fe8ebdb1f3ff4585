package systemd

import (
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"qlive/vmstate"
)

// Service is the process as its service manager knows it. A nil one is a process without a manager.
type Service struct {
	socket   *os.File // that messages are sent from; nil if the manager wants none
	address  string   // where to
	watchdog time.Duration
	room     int
	received received
}

// Open reads what the manager has said in the environment, and takes it out of there. Without a word from one the Service is nil.
// The errors are of kind Invalid, for words that make no sense, and Unsupported, for a way of being told that is not known here.
func Open(env Environment) (*Service, error) {
	s := &Service{}
	address := env.take(notifySocket)
	// All of it is read whatever goes wrong, so that nothing stays in the environment and no descriptor goes on to children.
	var errs [4]error
	s.watchdog, errs[0] = env.watchdog()
	s.received.files, errs[1] = env.files()
	room, err := env.number(storeSize, maxPID)
	s.room, errs[2] = int(room), err
	if address != "" {
		errs[3] = s.connect(address)
	}
	if err := errors.Join(errs[:]...); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	if address == "" && s.watchdog == 0 && len(s.received.files) == 0 {
		return nil, nil
	}
	return s, nil
}

// connect opens the socket for messages to the manager. It is not connected: the manager may come back on a new socket of the same name,
// and the address goes with each message.
func (s *Service) connect(address string) error {
	if err := checkAddress(address); err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return vmstate.Errorf(vmstate.Host, "cannot make a socket to talk to the service manager: %w", os.NewSyscallError("socket", err))
	}
	s.socket, s.address = os.NewFile(uintptr(fd), address), address
	limit := unix.NsecToTimeval(SendLimit.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit); err != nil {
		return vmstate.Errorf(vmstate.Host, "cannot bound what a message to the service manager may take: %w", os.NewSyscallError("setsockopt", err))
	}
	return nil
}

// checkAddress looks at the address in NOTIFY_SOCKET: the path of a socket, or @ and a name in the abstract namespace.
func checkAddress(address string) error {
	// As many bytes as sockaddr_un has, one of which is the NUL in front of an abstract name or behind a path.
	const room = 108
	switch {
	case len(address) < 2 || address[0] != '/' && address[0] != '@':
		return vmstate.Errorf(vmstate.Unsupported, "cannot talk to a service manager at %q: it is no unix socket", address).
			With("run qlive on the host itself, by a manager that listens on a unix socket")
	case address[0] == '/' && len(address) >= room, len(address) > room:
		return vmstate.Errorf(vmstate.Invalid, "cannot talk to a service manager at %q: the name of a unix socket has at most %d bytes", address, room-1).
			With("leave it to the service manager to set " + notifySocket)
	}
	return nil
}

// Notifies tells whether the manager wants messages at all.
func (s *Service) Notifies() bool { return s != nil && s.socket != nil }

// WatchdogInterval is how long the manager bears not to be told [Watchdog] before it kills this process; 0 for ever.
func (s *Service) WatchdogInterval() time.Duration {
	if s == nil {
		return 0
	}
	return s.watchdog
}

// StoreSize is how many descriptors the manager's store takes, 0 if it has not said: managers before systemd 254 do not.
func (s *Service) StoreSize() int {
	if s == nil {
		return 0
	}
	return s.room
}

// Close closes what nobody has taken, and the way to the manager. The manager keeps what it has stored. Messages fail afterwards.
func (s *Service) Close() error {
	if s == nil {
		return nil
	}
	err := s.received.close()
	if s.socket != nil {
		err = errors.Join(err, s.socket.Close())
	}
	return err
}
