package demo

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"syscall"
)

// errInterrupted is why a run that a signal ended has ended.
type errInterrupted struct{}

func (errInterrupted) Error() string        { return "interrupted" }
func (errInterrupted) Is(target error) bool { return target == context.Canceled }

// listen ends the context with the first signal that asks for an end, a terminal that is gone and a pipe that nobody reads
// among them. Further ones are heard and do nothing, until stop: the tidying up is not to be cut short.
func listen(parent context.Context) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(parent)
	heard := make(chan os.Signal, 1)
	signal.Notify(heard, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE)
	done := make(chan struct{})
	go func() {
		defer close(done)
		select {
		case <-heard:
			cancel(errInterrupted{})
		case <-parent.Done():
			cause := context.Cause(parent)
			if errors.Is(cause, context.Canceled) {
				cause = errInterrupted{}
			}
			cancel(cause)
		case <-ctx.Done():
		}
	}()
	return ctx, func() {
		cancel(nil)
		<-done
		signal.Stop(heard)
	}
}
