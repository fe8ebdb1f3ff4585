package systemd

import (
	"errors"
	"os"
	"strconv"
	"time"

	"qlive/vmstate"
)

// The environment variables that a service manager sets, of sd_notify(3), sd_watchdog_enabled(3) and sd_listen_fds(3).
const (
	notifySocket = "NOTIFY_SOCKET"
	watchdogUsec = "WATCHDOG_USEC"
	watchdogPID  = "WATCHDOG_PID"
	listenPID    = "LISTEN_PID"
	listenFDs    = "LISTEN_FDS"
	listenNames  = "LISTEN_FDNAMES"
	listenPIDFD  = "LISTEN_PIDFDID" // newer managers; nothing here needs it
	storeSize    = "FDSTORE"        // how many descriptors the store takes; since systemd 254
)

// Environment is what [Open] reads, and takes out.
type Environment struct {
	Getenv   func(string) string
	Unsetenv func(string) error
	PID      int // of this process: what is meant for another one is left alone
	// FirstFD is the number of the first descriptor passed on, 3 but in tests.
	FirstFD int
}

// Process is the environment of this process.
func Process() Environment {
	return Environment{Getenv: os.Getenv, Unsetenv: os.Unsetenv, PID: os.Getpid(), FirstFD: 3}
}

// take is the value of a variable, which is gone afterwards.
func (e Environment) take(name string) string {
	value := e.Getenv(name)
	if value != "" {
		_ = e.Unsetenv(name) // fails for names that no variable can have
	}
	return value
}

// number is the value of a variable that holds a number of at least 1; 0 if it is not set.
func (e Environment) number(name string, limit int64) (int64, error) {
	value := e.take(name)
	if value == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(value, 10, 64)
	if err != nil || n < 1 || n > limit {
		return 0, vmstate.Errorf(vmstate.Invalid, "cannot use %s=%q: it is no number from 1 to %d", name, value, limit).
			With("leave it to the service manager to set it")
	}
	return n, nil
}

// mine tells whether variables that go with this one are meant for this process: it holds the number of the process.
func (e Environment) mine(name string) (bool, error) {
	pid, err := e.number(name, maxPID)
	return err == nil && int(pid) == e.PID, err
}

const (
	maxPID      = 1<<31 - 1
	maxWatchdog = int64(1<<63-1) / int64(time.Microsecond)
)

// watchdog is how often the manager wants to hear that the process is well; 0 if it does not. Without the number of a process it is meant
// for whoever reads it, as sd_watchdog_enabled(3) has it.
func (e Environment) watchdog() (time.Duration, error) {
	mine, errPID := true, error(nil)
	if e.Getenv(watchdogPID) != "" {
		mine, errPID = e.mine(watchdogPID)
	}
	usec, err := e.number(watchdogUsec, maxWatchdog)
	if err := errors.Join(errPID, err); err != nil || !mine {
		return 0, err
	}
	return time.Duration(usec) * time.Microsecond, nil
}
