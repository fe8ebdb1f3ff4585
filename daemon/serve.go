package daemon

import (
	"context"
	"crypto/tls"
	"net"
	"os"
	"slices"

	"golang.org/x/sync/errgroup"

	"qlive/restapi"
	"qlive/vmstate"
)

// learnTrust says which role each user of the host has.
func (d *Daemon) learnTrust() vmstate.Trust {
	gid, err := restapi.GroupID(d.cfg.Group)
	if err != nil {
		d.log.Warn().Err(err).Str("group", d.cfg.Group).Msg("group not found: root alone may operate VMs")
	}
	return vmstate.Trust{UID: uint32(os.Geteuid()), Group: gid, Others: d.cfg.Others}
}

// Serve answers on the socket, and over TCP where that is configured, until ctx ends.
func (d *Daemon) Serve(ctx context.Context) error {
	l, err := d.listen()
	if err != nil {
		return err
	}
	var tcp net.Listener
	var config *tls.Config
	hosts := slices.Clone(d.cfg.Hosts)
	if d.cfg.Listen != "" {
		var names []string
		if tcp, config, names, err = restapi.ListenTLS(d.cfg.Listen, d.cfg.TLS); err != nil {
			l.Close()
			return err
		}
		hosts = append(hosts, names...)
	}
	server := restapi.Server{Limits: d.cfg.Limits, TLS: config, Logger: d.log, Handler: restapi.New(d, restapi.Options{
		Version: d.registry.version, Logger: d.log, Hosts: hosts, Limits: d.cfg.Limits,
		Access: restapi.Rules{Users: d.trust, Certificates: d.cfg.TLS.Roles},
	})}
	serving, ctx := errgroup.WithContext(ctx) // when one fails the other ends, too
	serving.Go(func() error { return server.Serve(ctx, l) })
	if tcp != nil {
		d.log.Info().Stringer("address", tcp.Addr()).Msg("listening over TCP")
		serving.Go(func() error { return server.Serve(ctx, tcp) })
	}
	d.log.Info().Str("socket", d.cfg.Socket).Str("mount", d.cfg.Mount).Msg("daemon ready")
	d.pulse.ready(ctx, d.taken)
	return serving.Wait()
}
