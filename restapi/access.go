package restapi

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"unsafe"

	"golang.org/x/sys/unix"

	"qlive/vmstate"
)

// Peer is who is at the other end of a connection: on a unix socket as the kernel said at the time it was accepted, over TCP as its
// certificate says.
type Peer struct {
	Local  bool // a unix socket; the next three are known only then
	PID    int32
	UID    uint32
	Groups []uint32 // the primary group and the others

	// Certificate is the client's, verified against the configured authority; nil on a unix socket.
	Certificate *x509.Certificate
}

// String names the peer: two that are not the same user have different names.
func (p Peer) String() string {
	switch {
	case p.Local:
		return fmt.Sprintf("uid %d", p.UID)
	case p.Certificate != nil:
		return fmt.Sprintf("certificate %q %s", p.Certificate.Subject.CommonName, fingerprint(p.Certificate))
	}
	return "nobody"
}

// fingerprint is the SHA-256 of the whole certificate in hexadecimal, as `openssl x509 -fingerprint -sha256` has it without colons.
func fingerprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return hex.EncodeToString(sum[:])
}

// Access decides what a peer may do.
type Access interface {
	Role(Peer) vmstate.Role
}

// Rules is an Access: the host's users by what Users says, others by their certificates.
type Rules struct {
	Users        vmstate.Trust
	Certificates []CertificateRule
}

// Role implements Access. Who has neither a user nor a certificate that a rule fits has no role.
func (r Rules) Role(p Peer) vmstate.Role {
	if p.Local {
		return r.Users.Role(p.UID, p.Groups)
	}
	if p.Certificate != nil {
		for _, rule := range r.Certificates {
			if rule.fits(p.Certificate) {
				return rule.Role
			}
		}
	}
	return vmstate.RoleNone
}

type peerKey struct{}

// withPeer keeps in ctx who is at the other end of c, which comes from a gate. It was read once, when the connection was accepted:
// whoever is given the descriptor later acts with the rights of the one that connected.
func withPeer(ctx context.Context, c net.Conn) context.Context {
	if secure, ok := c.(*tls.Conn); ok {
		c = secure.NetConn()
	}
	admitted, ok := c.(*conn)
	if !ok {
		return ctx
	}
	if admitted.surplus {
		ctx = context.WithValue(ctx, surplusKey{}, true)
	}
	return context.WithValue(ctx, peerKey{}, admitted.peer)
}

// certified is r with the client's certificate in place of the nobody that its connection was before the handshake.
func certified(r *http.Request) *http.Request {
	if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 {
		return r
	}
	peer := peerOf(r.Context())
	peer.Certificate = r.TLS.PeerCertificates[0]
	return r.WithContext(context.WithValue(r.Context(), peerKey{}, peer))
}

// peerOf is who sent the request of ctx.
func peerOf(ctx context.Context) Peer {
	p, _ := ctx.Value(peerKey{}).(Peer)
	return p
}

// peerOfSocket is who has connected to a unix socket. What the kernel will not vouch for is nobody.
func peerOfSocket(c *net.UnixConn) Peer {
	p, err := readPeer(c)
	if err != nil {
		return Peer{Local: true, UID: ^uint32(0)}
	}
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
