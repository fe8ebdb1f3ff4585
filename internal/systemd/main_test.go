package systemd_test

import (
	"encoding/json"
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"qlive/internal/systemd"
)

// asService is set for a copy of the test's program that is to be a service.
const asService = "QLIVE_TEST_SERVICE"

// TestMain is the test, or the service that a test starts.
func TestMain(m *testing.M) {
	if os.Getenv(asService) != "" {
		if err := serve(); err != nil {
			_, _ = os.Stderr.WriteString(err.Error() + "\n")
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// account is what the service says that it was given.
type account struct {
	Watchdog int64 // microseconds
	Room     int
	Names    []string
	Inodes   []uint64
	CloseOn  []bool   // exec
	Left     []string // variables that are still there
	Again    int      // descriptors that a second Take finds
}

// serve takes what it was given, tells the manager, and writes its account to standard output.
func serve() error {
	s, err := systemd.Open(systemd.Process())
	if err != nil {
		return err
	}
	a := account{Watchdog: s.WatchdogInterval().Microseconds(), Room: s.StoreSize()}
	everything := func(systemd.File) bool { return true }
	for _, f := range s.Take(everything) {
		info, err := f.Stat()
		if err != nil {
			return err
		}
		flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFD, 0)
		if err != nil {
			return err
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			return errors.New("no stat")
		}
		a.Names, a.Inodes, a.CloseOn = append(a.Names, f.Name), append(a.Inodes, st.Ino), append(a.CloseOn, flags&unix.FD_CLOEXEC != 0)
		// What was stored and has come back is the same to the manager: it must not be there twice afterwards.
		if err := s.Store(f.Name, f.File); err != nil {
			return err
		}
	}
	a.Again = len(s.Take(everything))
	for _, v := range os.Environ() {
		if name, _, _ := strings.Cut(v, "="); strings.HasPrefix(name, "LISTEN_") || strings.HasPrefix(name, "WATCHDOG_") || name == "NOTIFY_SOCKET" || name == "FDSTORE" {
			a.Left = append(a.Left, v)
		}
	}
	return errors.Join(json.NewEncoder(os.Stdout).Encode(a), s.Notify(systemd.Ready), s.Close())
}
