package systemd

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"qlive/vmstate"
)

// SendLimit is how long a message may wait for room in the manager's queue.
const SendLimit = 2 * time.Second

// State is a line of a message to the manager, NAME=VALUE.
type State string

// What a service can say of itself, as sd_notify(3) has it.
const (
	Ready    State = "READY=1"    // the start, or the reload, is over
	Stopping State = "STOPPING=1" // the end has begun
	Watchdog State = "WATCHDOG=1" // the process is well
)

// Status is a line for people, as `systemctl status` shows it. Newlines become spaces.
func Status(text string) State {
	return State("STATUS=" + strings.Join(strings.FieldsFunc(text, func(r rune) bool { return r == '\n' || r == '\r' || r == 0 }), " "))
}

// ExtendTimeout asks for the start or the end to be allowed at least d more from now.
func ExtendTimeout(d time.Duration) State {
	return State("EXTEND_TIMEOUT_USEC=" + strconv.FormatInt(d.Microseconds(), 10))
}

// Reloading says that the configuration is being read anew; [Ready] says that it has been. It takes the time of this moment, on the clock
// that the manager compares it with, CLOCK_MONOTONIC.
func Reloading() (State, error) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return "", vmstate.Errorf(vmstate.Host, "cannot read the clock: %w", os.NewSyscallError("clock_gettime", err))
	}
	return State("RELOADING=1\nMONOTONIC_USEC=" + strconv.FormatInt(now.Nano()/int64(time.Microsecond), 10)), nil
}

// Notify tells the manager all of states in one message. Without a manager that wants to know it does nothing. The error is of kind
// Host, or Timeout if the manager does not read what it is sent.
func (s *Service) Notify(states ...State) error {
	if !s.Notifies() {
		return nil
	}
	lines := make([]string, len(states))
	for i, state := range states {
		lines[i] = string(state)
	}
	return s.send(strings.Join(lines, "\n"), nil)
}

// Store gives the manager a descriptor to keep, and to pass on when this service starts again. It is kept until [Service.Forget], or
// until the service is stopped for good; the manager does not watch it for being hung up (FDPOLL=0, which systemd before 246
// ignores: there is no hanging up for the files that RAM is made of).
//
// The manager takes a second descriptor of the same opened file for the first one, whatever its name, and drops without a word
// what is more than its store takes (FileDescriptorStoreMax).
//
// Preconditions: [CheckName] of the name.
func (s *Service) Store(name string, file *os.File) error {
	if !s.Notifies() {
		return nil
	}
	if err := CheckName(name); err != nil {
		return err
	}
	return s.send("FDSTORE=1\nFDNAME="+name+"\nFDPOLL=0", file)
}

// Forget makes the manager let go of all descriptors of that name.
func (s *Service) Forget(name string) error {
	if !s.Notifies() {
		return nil
	}
	if err := CheckName(name); err != nil {
		return err
	}
	return s.send("FDSTOREREMOVE=1\nFDNAME="+name, nil)
}

// MaxName is how long the name of a descriptor may be, in bytes (FDNAME_MAX of systemd).
const MaxName = 255

// CheckName tells whether the manager takes name for a descriptor: at most [MaxName] characters of ASCII, no control character and no
// colon, which separates the names in LISTEN_FDNAMES. (fdname_is_valid of systemd; it leaves the empty name to those who have none.)
func CheckName(name string) error {
	for i := range len(name) {
		if c := name[i]; c < ' ' || c >= 0x7f || c == ':' {
			return vmstate.Errorf(vmstate.Invalid, "cannot store a descriptor as %q: %q is not allowed in its name", name, c)
		}
	}
	if name == "" || len(name) > MaxName {
		return vmstate.Errorf(vmstate.Invalid, "cannot store a descriptor as %q: a name has 1 to %d characters", name, MaxName)
	}
	return nil
}

// send sends one datagram, with a descriptor if there is one. net.UnixConn cannot: it refuses ancillary data for an address on a
// socket that it has connected, and cannot leave one unconnected.
func (s *Service) send(text string, file *os.File) error {
	err := with(s.socket, func(from int) error {
		if file == nil {
			return s.sendmsg(from, text, nil)
		}
		return with(file, func(fd int) error { return s.sendmsg(from, text, unix.UnixRights(fd)) })
	})
	if errors.Is(err, unix.EAGAIN) {
		return vmstate.Errorf(vmstate.Timeout, "cannot tell the service manager within %s: it does not read what it is sent", SendLimit).
			With("see what the service manager does: systemctl status")
	}
	if err != nil {
		return vmstate.Errorf(vmstate.Host, "cannot tell the service manager: %w", err)
	}
	return nil
}

// with calls f with the file's descriptor, which cannot be closed meanwhile.
func with(file *os.File, f func(fd int) error) error {
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if err := raw.Control(func(fd uintptr) { failed = f(int(fd)) }); err != nil {
		return err
	}
	return failed
}

func (s *Service) sendmsg(from int, text string, rights []byte) error {
	to := &unix.SockaddrUnix{Name: s.address} // for this message alone: sending writes into it
	for {
		err := unix.Sendmsg(from, []byte(text), rights, to, unix.MSG_NOSIGNAL)
		if !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("sendmsg", err)
		}
	}
}
