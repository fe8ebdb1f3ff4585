package proc

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
)

// UnixSocket is a line of /proc/PID/net/unix.
type UnixSocket struct {
	Listening bool
	Connected bool
	Inode     uint64 // of the socket; 0: a connection that nobody has accepted yet
	Path      string // that it is bound to; empty for none, and @NAME for an abstract one
}

// ReadUnixSockets reads the unix sockets of a process' network namespace.
func ReadUnixSockets(pid int) ([]UnixSocket, error) {
	f, err := os.Open(file(pid, "net/unix"))
	if err != nil {
		return nil, fmt.Errorf("cannot read the unix sockets around process %d: %w", pid, err)
	}
	defer f.Close()
	return ParseUnixSockets(f)
}

// ParseUnixSockets reads the text of a net/unix file.
func ParseUnixSockets(r io.Reader) ([]UnixSocket, error) {
	var list []UnixSocket
	s := newScanner(r)
	for first := true; s.Scan(); first = false {
		if first && strings.HasPrefix(s.Text(), "Num ") {
			continue
		}
		u, err := parseUnixSocket(s.Text())
		if err != nil {
			return nil, err
		}
		list = append(list, u)
	}
	return list, s.Err()
}

func parseUnixSocket(line string) (UnixSocket, error) {
	// Num RefCount Protocol Flags Type St Inode Path: see unix_seq_show in net/unix/af_unix.c.
	const flags, state, inode = 3, 5, 6
	const accepting, connected = 1 << 16, 3 // __SO_ACCEPTCON, SS_CONNECTED
	fields, path := cutFields(line, 7)
	bad := fmt.Errorf("cannot understand the unix socket %q", line)
	if len(fields) != 7 {
		return UnixSocket{}, bad
	}
	var n [3]uint64
	for i, f := range []struct{ at, base int }{{flags, 16}, {state, 16}, {inode, 10}} {
		var err error
		if n[i], err = strconv.ParseUint(fields[f.at], f.base, 64); err != nil {
			return UnixSocket{}, bad
		}
	}
	return UnixSocket{Listening: n[0]&accepting != 0, Connected: n[1] == connected, Inode: n[2], Path: path}, nil
}
