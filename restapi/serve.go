package restapi

import (
	"context"
	"errors"
	"net"
	"net/http"
	"time"
)

// shutdownGrace is how long requests may take to end once the server is told to.
const shutdownGrace = 5 * time.Second

// Serve answers on l until ctx ends, then lets the requests that are under way finish: the long ones, events and
// waits, end with ctx. It closes l and returns when all is over, with nil after ctx.
func Serve(ctx context.Context, l net.Listener, handler http.Handler) error {
	server := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ConnContext:       withPeer,
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
	err := server.Serve(l)
	fail() // Serve came back by itself, if ctx has not ended
	if errors.Is(err, http.ErrServerClosed) {
		err = nil
	}
	return errors.Join(err, <-stopped)
}
