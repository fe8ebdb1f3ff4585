package restapi

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"log"
	"net"
	"net/http"
	"time"

	"github.com/rs/zerolog"

	"qlive/vmstate"
)

// shutdownGrace is how long requests may take to end once the server is told to.
const shutdownGrace = 5 * time.Second

// Server answers on listeners.
type Server struct {
	Handler http.Handler // made by New
	Limits  Limits
	TLS     *tls.Config // for a listener that is no unix socket; from ListenTLS
	Logger  zerolog.Logger
}

// Serve answers on l until ctx ends, then lets the requests that are under way finish: the long ones, events and
// waits, end with ctx. It closes l and returns when all is over, with nil after ctx. A listener that is no unix socket is refused without TLS.
func (s Server) Serve(ctx context.Context, l net.Listener) error {
	config := s.TLS
	if l.Addr().Network() == "unix" {
		config = nil
	} else if config == nil || config.ClientAuth != tls.RequireAndVerifyClientCert || config.MinVersion < tls.VersionTLS13 {
		return errors.Join(vmstate.Errorf(vmstate.Denied, "cannot serve on %s without TLS 1.3 and client certificates", l.Addr()), l.Close())
	}
	limits := s.Limits.orDefaults()
	server := &http.Server{
		Handler:           s.Handler,
		ReadHeaderTimeout: limits.HeaderTime,
		ReadTimeout:       max(limits.BodyTime, limits.HeaderTime),
		IdleTimeout:       limits.IdleTime,
		MaxHeaderBytes:    limits.HeaderBytes,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ConnContext:       withPeer,
		// At debug: anybody who reaches a port can cause lines here.
		ErrorLog: log.New(debugLog{s.Logger}, "", 0),
	}
	stopped := make(chan error, 1)
	failed, fail := context.WithCancel(ctx)
	defer fail()
	go func() {
		<-failed.Done()
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownGrace)
		defer cancel()
		err := server.Shutdown(grace)
		if err != nil {
			err = errors.Join(err, server.Close())
		}
		stopped <- err
	}()
	err := server.Serve(newGate(l, config, limits))
	fail() // Serve came back by itself, if ctx has not ended
	if errors.Is(err, http.ErrServerClosed) {
		err = nil
	}
	return errors.Join(err, <-stopped)
}

// debugLog takes what net/http has to say of connections that come to nothing.
type debugLog struct{ zerolog.Logger }

func (l debugLog) Write(line []byte) (int, error) {
	l.Debug().Bytes("net_http", bytes.TrimSpace(line)).Msg("connection failed")
	return len(line), nil
}
