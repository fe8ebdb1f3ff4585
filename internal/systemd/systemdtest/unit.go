package systemdtest

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"qlive/internal/systemd"
)

// Unit says how a program is started.
type Unit struct {
	Watchdog time.Duration  // WatchdogSec; 0 for none
	Sockets  []systemd.File // of its socket unit; they stay the caller's
	StoreMax int            // FileDescriptorStoreMax, of a manager that says so; 0 for one that does not
}

// Prepare makes cmd a service of this manager: with the variables that say so, the unit's sockets, and everything that the store
// holds. A shell becomes the program, because a variable must hold the program's own process number.
func (m *Manager) Prepare(cmd *exec.Cmd, u Unit) {
	if cmd.Env == nil {
		cmd.Env = os.Environ()
	}
	cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+m.Address)
	export := ""
	if u.Watchdog > 0 {
		cmd.Env = append(cmd.Env, fmt.Sprintf("WATCHDOG_USEC=%d", u.Watchdog.Microseconds()))
		export += "export WATCHDOG_PID=$$; "
	}
	if u.StoreMax > 0 {
		cmd.Env = append(cmd.Env, fmt.Sprintf("FDSTORE=%d", u.StoreMax))
	}
	if files := append(append([]systemd.File(nil), u.Sockets...), m.Stored()...); len(files) > 0 {
		names := make([]string, len(files))
		for i, f := range files {
			names[i] = f.Name
			cmd.ExtraFiles = append(cmd.ExtraFiles, f.File)
		}
		cmd.Env = append(cmd.Env, fmt.Sprintf("LISTEN_FDS=%d", len(files)), "LISTEN_FDNAMES="+strings.Join(names, ":"))
		export += "export LISTEN_PID=$$; "
	}
	if export != "" {
		cmd.Args = append([]string{"/bin/sh", "-c", export + `exec "$0" "$@"`, cmd.Path}, cmd.Args[1:]...)
		cmd.Path = "/bin/sh"
	}
}
