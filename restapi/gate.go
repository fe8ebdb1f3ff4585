package restapi

import (
	"crypto/tls"
	"net"
	"os"

	"qlive/vmstate"
)

// surplusPlaces is how many connections beyond the limit are kept just long enough to be told so. Those beyond them are closed.
const surplusPlaces = 16

// gate is a listener that knows who connects, and lets in only so many at once.
type gate struct {
	net.Listener
	tls     *tls.Config // nil for a unix socket
	places  *pool
	surplus *pool
}

func newGate(l net.Listener, config *tls.Config, limits Limits) *gate {
	return &gate{l, config, newPool(limits.Connections, limits.PerUser), newPool(surplusPlaces, surplusPlaces)}
}

// Accept waits for the next connection that there is a place for.
func (g *gate) Accept() (net.Conn, error) {
	for {
		c, err := g.Listener.Accept()
		if err != nil {
			return nil, err
		}
		admitted := g.admit(c)
		switch {
		case admitted == nil:
			c.Close()
		case g.tls != nil:
			return tls.Server(admitted, g.tls), nil
		default:
			return admitted, nil
		}
	}
}

// admit is nil if there is no place.
func (g *gate) admit(c net.Conn) *conn {
	var peer Peer
	var user string
	if local, ok := c.(*net.UnixConn); ok {
		peer = peerOfSocket(local)
		user = peer.String()
	} else {
		user, _, _ = net.SplitHostPort(c.RemoteAddr().String()) // who it is will be known after the handshake
	}
	own := vmstate.Trust{UID: uint32(os.Geteuid())}
	admin := peer.Local && own.Role(peer.UID, nil) == vmstate.RoleAdmin
	if giveBack, ok := g.places.take(user, admin); ok {
		return &conn{Conn: c, peer: peer, giveBack: giveBack}
	}
	if giveBack, ok := g.surplus.take(user, admin); ok {
		return &conn{Conn: c, peer: peer, giveBack: giveBack, surplus: true}
	}
	return nil
}

// surplusKey marks the context of a connection beyond the limit.
type surplusKey struct{}

// conn is a connection that a gate has let in.
type conn struct {
	net.Conn
	peer     Peer
	surplus  bool // there is no place for it: it shall be told so
	giveBack func()
}

// Close gives the place back.
func (c *conn) Close() error {
	defer c.giveBack()
	return c.Conn.Close()
}

// CloseWrite ends what is sent and lets the rest of a request come, so that a client that still sends its body reads why it was refused.
// net/http asks for it.
func (c *conn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}
