package qemu

import (
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"qlive/internal/qemu/cmdline"
)

// Learn finds out what the line args needs for the life of its guest: the versioned machine type in the binary that starts it first,
// what the memory paths are on this host (relative ones below dir), and a fresh GUID. It is asked once in a guest's
// life; the facts are then kept.
func Learn(args []string, dir string, info *Info) (cmdline.Facts, error) {
	machine, err := cmdline.ResolveMachine(args, info.Machines)
	if err != nil {
		return cmdline.Facts{}, err
	}
	return cmdline.Facts{Machine: machine, GUID: newGUID(), Paths: LookAtPaths(args, dir)}, nil
}

// LookAtPaths tells what the memory paths of a line are on this host, relative ones below dir; nil if it has none.
func LookAtPaths(args []string, dir string) map[string]cmdline.PathInfo {
	var paths map[string]cmdline.PathInfo
	for _, p := range cmdline.Paths(args) {
		if paths == nil {
			paths = map[string]cmdline.PathInfo{}
		}
		full := p
		if !filepath.IsAbs(p) {
			full = filepath.Join(dir, p)
		}
		paths[p] = lookAt(full)
	}
	return paths
}

// lookAt tells what is at path; of what does not exist, which file system it would lie on.
func lookAt(path string) cmdline.PathInfo {
	var info cmdline.PathInfo
	if st, err := os.Stat(path); err == nil {
		info.Exists, info.Dir, info.Regular = true, st.IsDir(), st.Mode().IsRegular()
	}
	for at := path; ; at = filepath.Dir(at) {
		var fs unix.Statfs_t
		err := unix.Statfs(at, &fs)
		if err != nil && at != "/" && at != "." {
			continue
		}
		if err == nil && fs.Type == unix.HUGETLBFS_MAGIC {
			info.PageBytes, info.Memory = uint64(fs.Bsize), true
		}
		if err == nil && fs.Type == unix.TMPFS_MAGIC {
			info.Memory = true
		}
		return info
	}
}

// newGUID is a random GUID (RFC 9562, version 4).
func newGUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // it never fails: crypto/rand ends the program instead
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
