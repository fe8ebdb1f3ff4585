package qemu

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"qlive/vmstate"
)

// element is something on the way to a file, held by a descriptor that names it and cannot read it (O_PATH).
type element struct {
	fd   int
	path string // for people: how one gets there
	stat unix.Stat_t
}

// follow goes along path, element by element and by descriptors, and gives the file that it leads to; each element must be safe. What has
// been looked at is what the next element is looked up in, so that nothing can be exchanged in between. The descriptor is the caller's.
func follow(path string) (_ element, err error) {
	const mostLinks = 40 // as the kernel has it
	at, err := enter(path, element{fd: unix.AT_FDCWD}, "/")
	if err != nil {
		return element{}, err
	}
	defer func() {
		if err != nil {
			_ = unix.Close(at.fd) // nothing was written to it
		}
	}()
	links := 0
	for todo := strings.Split(path, "/"); len(todo) > 0; {
		name := todo[0]
		todo = todo[1:]
		if name == "" || name == "." {
			continue
		}
		next, err := enter(path, at, name)
		if err != nil {
			return element{}, err
		}
		if next.stat.Mode&unix.S_IFMT != unix.S_IFLNK {
			_ = unix.Close(at.fd) // nothing was written to it
			at = next
			continue
		}
		target, err := next.link()
		_ = unix.Close(next.fd) // nothing was written to it
		if err != nil {
			return element{}, vmstate.Errorf(vmstate.Host, "cannot run %s: cannot read the link %s: %w", path, next.path, err)
		}
		if links++; links > mostLinks {
			return element{}, denied(path, "its symbolic links lead in a circle", "name the file itself")
		}
		if filepath.IsAbs(target) {
			root, err := enter(path, element{fd: unix.AT_FDCWD}, "/")
			if err != nil {
				return element{}, err
			}
			_ = unix.Close(at.fd) // nothing was written to it
			at = root
		}
		todo = append(strings.Split(target, "/"), todo...)
	}
	return at, nil
}

// enter takes hold of an entry of a folder, if nobody but root or this user can change it; path is what was asked for.
func enter(path string, folder element, name string) (element, error) {
	e := element{path: filepath.Join(folder.path, name)}
	var err error
	e.fd, err = unix.Openat(folder.fd, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return element{}, vmstate.Errorf(vmstate.NotFound, "cannot run %s: %s does not exist", path, e.path).With("name a QEMU that is installed")
	}
	if err != nil {
		return element{}, vmstate.Errorf(vmstate.Host, "cannot look at %s: %w", e.path, err)
	}
	if err := e.check(path); err != nil {
		_ = unix.Close(e.fd) // nothing was written to it
		return element{}, err
	}
	return e, nil
}

// check is an error if somebody else than root or this user can change what e is.
func (e *element) check(path string) error {
	if err := unix.Fstat(e.fd, &e.stat); err != nil {
		return vmstate.Errorf(vmstate.Host, "cannot look at %s: %w", e.path, err)
	}
	if e.stat.Uid != 0 && int(e.stat.Uid) != os.Geteuid() {
		return denied(path, fmt.Sprintf("%s belongs to the user %d", e.path, e.stat.Uid), "chown root "+e.path)
	}
	if e.stat.Mode&unix.S_IFMT == unix.S_IFLNK {
		return nil // a link's own mode means nothing
	}
	if userMounted(e.fd) {
		return denied(path, e.path+" is on a FUSE file system that is mounted nosuid: whoever serves it can show anything", "copy the binary to a local disk")
	}
	if e.stat.Mode&unix.S_IFMT == unix.S_IFDIR && e.stat.Mode&unix.S_ISVTX != 0 {
		return nil // only an entry's owner can change it
	}
	mode := e.stat.Mode & 0o777
	if mode&0o002 != 0 || mode&0o020 != 0 && (e.stat.Gid != 0 || hasAccessList(e.fd)) {
		return denied(path, fmt.Sprintf("others can write %s (mode %04o)", e.path, mode), "chmod go-w "+e.path)
	}
	return nil
}

// userMounted tells whether the file lies on a FUSE file system as a user can mount one: fusermount makes every such mount nosuid, and what it
// shows, owners included, is that user's to say.
func userMounted(fd int) bool {
	var fs unix.Statfs_t
	return unix.Fstatfs(fd, &fs) == nil && fs.Type == unix.FUSE_SUPER_MAGIC && fs.Flags&unix.MS_NOSUID != 0 // ST_NOSUID has the same value
}

// hasAccessList tells whether the file has a POSIX access list. The bits of the group are then the most that anybody named in it may do.
func hasAccessList(fd int) bool {
	n, err := unix.Getxattr(byDescriptor(uintptr(fd)), "system.posix_acl_access", nil)
	return err == nil && n > 0
}

// link is what the symbolic link says.
func (e *element) link() (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(e.fd, "", buf)
	return string(buf[:max(n, 0)]), err
}
