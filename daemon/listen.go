package daemon

import (
	"net"

	"qlive/internal/systemd"
	"qlive/restapi"
	"qlive/vmstate"
)

// socketName is what the socket unit calls the socket of the REST API (FileDescriptorName=).
const socketName = "qlive.sock"

// listen takes the socket that the service manager already listens on for the daemon, if there is one: the one called socketName, or the
// only one. Else it makes it.
func (d *Daemon) listen() (net.Listener, error) {
	sockets := d.systemd.Take(func(f systemd.File) bool { return f.Name == socketName })
	if len(sockets) == 0 {
		sockets = d.systemd.Take(func(f systemd.File) bool { return restapi.Listens(f.File) })
	}
	switch len(sockets) {
	case 0:
		return restapi.Listen(d.cfg.Socket, d.trust)
	case 1:
	default:
		for _, s := range sockets {
			s.Close()
		}
		return nil, vmstate.Errorf(vmstate.Invalid, "cannot tell which of %d sockets that were passed on is that of the API", len(sockets)).
			With("leave one ListenStream= in the socket unit, or name one of them: FileDescriptorName=" + socketName)
	}
	l, err := restapi.Inherit(sockets[0].File)
	if err == nil && l.Addr().String() != d.cfg.Socket {
		d.log.Warn().Str("listens_on", l.Addr().String()).Str("socket", d.cfg.Socket).
			Msg("the socket that was passed on is not where the configuration has it, nor where clients look for it")
	}
	return l, err
}
