package restapi

import (
	"context"
	"errors"
	"net"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"

	"qlive/vmstate"
)

// Role is what a caller may do. A higher one may do all that a lower one may.
type Role int

// The roles.
const (
	RoleRead    Role = iota // look
	RoleOperate             // act on VMs that there are
	RoleAdmin               // say what is run
)

// String is the role's name.
func (r Role) String() string {
	switch r {
	case RoleOperate:
		return "operate"
	case RoleAdmin:
		return "admin"
	}
	return "read"
}

// Peer is who is at the other end of a connection, as the kernel says, at the time it was accepted.
type Peer struct {
	Local  bool // a unix socket; the rest is known only then
	PID    int32
	UID    uint32
	Groups []uint32 // the primary group and the others
}

// Access decides what a peer may do.
type Access interface {
	Role(Peer) Role
}

// LocalAccess gives root and UID every right, members of Group the right to operate, and others, local or not, the right to read.
type LocalAccess struct {
	UID   uint32 // the daemon's own
	Group int    // -1 for none
}

// Role implements Access.
func (a LocalAccess) Role(p Peer) Role {
	switch {
	case p.Local && (p.UID == 0 || p.UID == a.UID):
		return RoleAdmin
	case p.Local && a.Group >= 0 && slices.Contains(p.Groups, uint32(a.Group)):
		return RoleOperate
	}
	return RoleRead
}

type peerKey struct{}

// withPeer keeps in ctx who is at the other end of c. It is read once, when the connection is accepted: whoever
// is given the descriptor later acts with the rights of the one that connected.
func withPeer(ctx context.Context, c net.Conn) context.Context {
	unixConn, ok := c.(*net.UnixConn)
	if !ok {
		return ctx
	}
	p, err := readPeer(unixConn)
	if err != nil {
		p = Peer{Local: true, UID: ^uint32(0)} // nobody: what the kernel will not vouch for may only read
	}
	return context.WithValue(ctx, peerKey{}, p)
}

// peerOf is who sent the request of ctx.
func peerOf(ctx context.Context) Peer {
	p, _ := ctx.Value(peerKey{}).(Peer)
	return p
}

// readPeer asks inside Control, so that the descriptor cannot become another one meanwhile.
func readPeer(c *net.UnixConn) (Peer, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return Peer{}, err
	}
	var p Peer
	var asked error
	err = raw.Control(func(fd uintptr) {
		var cred *unix.Ucred
		if cred, asked = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); asked != nil {
			return
		}
		p = Peer{Local: true, PID: cred.Pid, UID: cred.Uid}
		var groups []uint32
		groups, asked = peerGroups(fd)
		p.Groups = append(groups, cred.Gid)
	})
	return p, errors.Join(err, asked)
}

// peerGroups are the supplementary groups that the peer had when it connected. x/sys has no wrapper for
// an option that is an array.
func peerGroups(fd uintptr) ([]uint32, error) {
	groups := make([]uint32, 64)
	for {
		size := uint32(len(groups) * 4)
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_PEERGROUPS,
			uintptr(unsafe.Pointer(&groups[0])), uintptr(unsafe.Pointer(&size)), 0)
		switch errno {
		case 0:
			return groups[:size/4], nil
		case unix.ERANGE: // size now says how much is needed
			groups = make([]uint32, size/4)
		default:
			return nil, errno
		}
	}
}

// allow is nil if the sender of the request may do what needs role.
func (a *api) allow(ctx context.Context, role Role) error {
	has := a.access.Role(peerOf(ctx))
	if has >= role {
		return nil
	}
	return vmstate.Errorf(vmstate.Denied, "cannot do this as role %s: it needs role %s", has, role).
		With("use sudo, or let an administrator add you to the group that owns the socket")
}
