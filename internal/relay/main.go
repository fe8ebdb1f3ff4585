package relay

import (
	"fmt"
	"net"
	"os"
	"os/signal"
	"runtime"

	"golang.org/x/sys/unix"
)

// Verb is the argument by which this program is told to be a relay.
const Verb = "relay"

// Main is the process of a relay: descriptor 3 is a socket to the source, 4 one to the target. It says on stdout what it has done, and returns
// the process' exit status.
func Main() int {
	// What ends daemons and sessions is not meant for it: it ends with the QEMUs.
	signal.Ignore(unix.SIGHUP, unix.SIGINT, unix.SIGTERM)
	// The threads that it may need are made before the guest depends on it: the cgroup of a VM may have no room for one more later on.
	runtime.GOMAXPROCS(2)
	runtime.GC()
	source, err := inherited(3, "source")
	if err == nil {
		var target *net.UnixConn
		if target, err = inherited(4, "target"); err == nil {
			fmt.Println(Run(source, target))
			return 0
		}
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// inherited takes over a socket. Nobody else of this process holds it then.
func inherited(fd uintptr, name string) (*net.UnixConn, error) {
	f := os.NewFile(fd, name)
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("cannot relay: descriptor %d, for the %s, is no socket: %w", fd, name, err)
	}
	socket, ok := conn.(*net.UnixConn)
	if !ok {
		return nil, fmt.Errorf("cannot relay: descriptor %d, for the %s, is no unix socket", fd, name)
	}
	return socket, f.Close()
}
