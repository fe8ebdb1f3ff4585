package foreign

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"qlive/vmstate"
)

// Descriptors are those of the process, see [Descriptors].
func (p *Process) Descriptors(images []string) ([]vmstate.HeldDescriptor, error) {
	return Descriptors(p.ID.PID, images)
}

// Descriptors are those of a process that another QEMU cannot have at the same time, or must open anew: tap devices, sockets that listen,
// images, devices of the host. Each is looked at by a copy (pidfd_getfd(2)). Images are the paths that QEMU names as its guest's.
func Descriptors(pid int, images []string) ([]vmstate.HeldDescriptor, error) {
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, vmstate.Errorf(vmstate.NotFound, "cannot hold process %d: %w", pid, err)
	}
	defer unix.Close(pidfd)
	dir := fmt.Sprintf("/proc/%d/fd/", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, vmstate.Errorf(vmstate.Host, "cannot look at the descriptors of process %d: %w", pid, err)
	}
	var list []vmstate.HeldDescriptor
	for _, e := range entries {
		number, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		link, err := os.Readlink(dir + e.Name())
		if err != nil {
			continue // closed meanwhile
		}
		d, err := look(pidfd, number, link, isTun(dir+e.Name()), images)
		if errors.Is(err, unix.EBADF) {
			continue // likewise
		}
		if err != nil {
			return nil, vmstate.Errorf(vmstate.Host, "cannot look at descriptor %d of process %d: %w", number, pid, err)
		}
		if d.Kind != "" {
			list = append(list, d)
		}
	}
	slices.SortFunc(list, func(a, b vmstate.HeldDescriptor) int { return cmp.Compare(a.FD, b.FD) })
	return list, nil
}

// deleted is what the kernel adds to the path of a file that the path does not lead to any more.
const deleted = " (deleted)"

// CheckImages refuses to let a QEMU part with images whose paths lead nowhere any more, or to other files: as it lets go of an image it opens it by
// its path once more, to read only (raw_reconfigure_getfd in block/file-posix.c). The error is of kind Unsupported.
func CheckImages(held []vmstate.HeldDescriptor) error {
	for _, d := range held {
		if path, gone := strings.CutSuffix(d.Name, deleted); gone && d.Kind == vmstate.HeldImage {
			return vmstate.Errorf(vmstate.Unsupported, "cannot hand the image %s over: QEMU opens it by its path as it lets go of it, and the path leads nowhere any more, or to another file", path).
				With("put the very file back there; from one that has no name any more nothing but a copy can be made (cp /proc/PID/fd/N)")
		}
	}
	return nil
}

// isTun tells whether a descriptor is one of /dev/net/tun, whatever that is called in its container (Documentation/admin-guide/devices.txt).
func isTun(path string) bool {
	const major, minor = 10, 200
	var st unix.Stat_t
	return unix.Stat(path, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == unix.Mkdev(major, minor)
}

// look finds out what a descriptor is; one that does not matter has no kind.
func look(pidfd, number int, link string, tun bool, images []string) (vmstate.HeldDescriptor, error) {
	d := vmstate.HeldDescriptor{FD: number, Name: link}
	switch {
	case slices.Contains(images, strings.TrimSuffix(link, deleted)):
		d.Kind = vmstate.HeldImage
	case tun || strings.HasPrefix(link, "socket:["):
		theirs, err := unix.PidfdGetfd(pidfd, number, 0)
		if err != nil {
			return d, err
		}
		defer unix.Close(theirs)
		if tun {
			return tap(d, theirs)
		}
		return listening(d, theirs)
	case strings.HasPrefix(link, "/dev/vfio/"), strings.HasPrefix(link, "/dev/vhost-"), strings.HasPrefix(link, "/dev/bus/usb/"):
		d.Kind = vmstate.HeldDevice
	}
	return d, nil
}

// tap finds out the interface of a descriptor of /dev/net/tun.
func tap(d vmstate.HeldDescriptor, fd int) (vmstate.HeldDescriptor, error) {
	d.Kind = vmstate.HeldTap
	req, err := unix.NewIfreq("x") // the name is for the kernel to fill in
	if err != nil {
		return d, err
	}
	switch err := unix.IoctlIfreq(fd, unix.TUNGETIFF, req); {
	case err == nil:
		d.Name = req.Name()
	case !errors.Is(err, unix.EBADFD): // not attached to any
		return d, err
	}
	return d, nil
}

// listening tells of a socket whether it waits for others to connect, and where.
func listening(d vmstate.HeldDescriptor, fd int) (vmstate.HeldDescriptor, error) {
	accepts, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	if err != nil || accepts == 0 {
		return d, err
	}
	d.Kind = vmstate.HeldListening
	at, err := unix.Getsockname(fd)
	if err != nil {
		return d, err
	}
	switch a := at.(type) {
	case *unix.SockaddrUnix:
		d.Name = a.Name
	case *unix.SockaddrInet4:
		d.Name = fmt.Sprintf("%d.%d.%d.%d:%d", a.Addr[0], a.Addr[1], a.Addr[2], a.Addr[3], a.Port)
	case *unix.SockaddrInet6:
		d.Name = fmt.Sprintf("[%x]:%d", a.Addr, a.Port)
	}
	return d, nil
}
