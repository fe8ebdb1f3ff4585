package fsview

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/hanwen/go-fuse/v2/fuse"

	"qlive/vmstate"
)

// Caller is the thread that a request comes from, as the kernel tells it.
type Caller struct {
	UID    uint32
	GID    uint32
	PID    uint32   // of the thread; 0 if it is in a PID namespace that the daemon cannot see
	Groups []uint32 // GID and, where they can be known, the supplementary groups
}

// nobody is the caller of a request that comes from nobody.
const nobody = ^uint32(0)

// callerOf is who sent the request of ctx. FUSE tells user and group of the file system operations, but no supplementary groups: these
// are read from /proc.
//
// That is no race. A thread whose request has reached us sleeps until it is answered, and not even SIGKILL ends it before (the kernel's
// fuse request_wait_answer): its number is nobody else's meanwhile, and only a thread itself can change its credentials. Requests that
// nobody waits for (io_submit with O_DIRECT) may outlive their thread. Then, and where user or group are other ones than the request's
// (a worker thread that acts for somebody), the groups count for nothing; and since an open file only ever loses rights (see
// controlHandle), what a reused number could give is no more than what the kernel granted at open.
func callerOf(ctx context.Context) Caller {
	c, ok := fuse.FromContext(ctx)
	if !ok {
		return Caller{UID: nobody, GID: nobody}
	}
	who := Caller{UID: c.Uid, GID: c.Gid, PID: c.Pid, Groups: []uint32{c.Gid}}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.Pid))
	if err != nil {
		return who
	}
	if uid, gid, groups, ok := parseCredentials(status); ok && uid == c.Uid && gid == c.Gid {
		who.Groups = append(who.Groups, groups...)
	}
	return who
}

// parseCredentials reads from /proc/PID/status, see proc_pid_status(5), the user and group for file system operations and the supplementary
// groups. It is false if one of the three lines is missing, there twice, or not of that form.
func parseCredentials(status []byte) (uid, gid uint32, groups []uint32, ok bool) {
	lines := map[string][]uint32{}
	for line := range strings.Lines(string(status)) {
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ":\t")
		if key != "Uid" && key != "Gid" && key != "Groups" {
			continue
		}
		numbers, err := ids(value)
		if _, twice := lines[key]; twice || err != nil {
			return 0, 0, nil, false
		}
		lines[key] = numbers
	}
	groups, ok = lines["Groups"]
	if !ok || len(lines["Uid"]) != 4 || len(lines["Gid"]) != 4 {
		return 0, 0, nil, false
	}
	return lines["Uid"][3], lines["Gid"][3], groups, true // real, effective, saved, and last that for file system operations
}

func ids(text string) ([]uint32, error) {
	var all []uint32
	for _, word := range strings.Fields(text) {
		n, err := strconv.ParseUint(word, 10, 32)
		if err != nil {
			return nil, err
		}
		all = append(all, uint32(n))
	}
	return all, nil
}

// role is what who may do.
func (t *FS) role(who Caller) vmstate.Role { return t.opts.Trust.Role(who.UID, who.Groups) }
