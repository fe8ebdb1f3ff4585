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

// Begin is the signal by which it is told that the guest runs in the target: from then on it keeps pages of zeroes back.
const Begin = unix.SIGUSR1

// Main is the process of a relay: descriptor 3 is a socket to the source, 4 one to the target. It says on stdout what it has done, and returns
// the process' exit status.
func Main() int {
	told, begin := make(chan os.Signal, 1), make(chan struct{})
	signal.Notify(told, Begin)
	go func() { // as long as the process
		<-told
		close(begin)
	}()
	// What ends daemons and sessions is not meant for it: it ends with the QEMUs.
	signal.Ignore(unix.SIGHUP, unix.SIGINT, unix.SIGTERM)
	// The threads that it may need are made before the guest depends on it: the cgroup of a VM may have no room for one more later on.
	runtime.GOMAXPROCS(2)
	runtime.GC()
	source, err := inherited(3, "source")
	if err == nil {
		var target *net.UnixConn
		if target, err = inherited(4, "target"); err == nil {
			fmt.Println(Run(source, target, begin))
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
