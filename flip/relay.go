package flip

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"
)

// relay hands the stream of a migration on from the source to the target, and the target's answers back. It stands between the two for two reasons:
//
//   - Its death is qlive's. QEMU stops a guest by itself when it has copied enough of it; if qlive is gone by then, the broken channel makes the source's
//     migration fail, and the source lets its guest go on by itself.
//   - Without the target's answer a source does not believe that it has handed its guest over. The answers wait here until qlive lets them through.
type relay struct {
	from, to *net.UnixConn // the source's other end, and the target's
	pumps    sync.WaitGroup
	broken   context.Context // ends, with the reason as its cause, when one of the two cannot be served any more
	breaks   context.CancelCauseFunc
}

// relayBuffer is half of what each side of the relay holds, bytes: the kernel doubles it. What is on its way counts as sent for QEMU, so that much of it
// would make the pause longer than QEMU thinks.
const relayBuffer = 256 << 10

// newRelay makes the two channels; the target waits for its guest from then on.
func newRelay(ctx context.Context, source, target *Side) (*relay, error) {
	r := &relay{}
	r.broken, r.breaks = context.WithCancelCause(context.WithoutCancel(ctx))
	var err error
	if r.from, err = source.end(ctx, relayBuffer); err != nil {
		return nil, err
	}
	if r.to, err = target.channel(ctx, relayBuffer); err != nil {
		r.from.Close()
		return nil, err
	}
	return r, nil
}

// send begins to hand on what the source sends.
func (r *relay) send() { r.pump(r.to, r.from, "the guest to the target") }

// answer begins to hand on what the target answers, from the first word.
func (r *relay) answer() { r.pump(r.from, r.to, "the target's answers to the source") }

// pump hands on until the one end has said all or the other takes no more. An end that cannot be served is not hung up on: the source would let its guest
// go on, and that is not for the relay to decide.
func (r *relay) pump(to, from *net.UnixConn, what string) {
	r.pumps.Go(func() {
		// The connections' own ways of copying would do it with buffers of 32 KiB.
		_, err := io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{from}, make([]byte, relayBuffer))
		if err == nil {
			err = to.CloseWrite()
		}
		if err != nil {
			r.breaks(fmt.Errorf("cannot hand on %s: %w", what, err))
		}
	})
}

// within is ctx, which ends when the relay breaks as well.
func (r *relay) within(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(r.broken, func() { cancel(context.Cause(r.broken)) })
	return ctx, func() { stop(); cancel(nil) }
}

// hangUpTarget lets go of the target's end. It may be called more than once.
func (r *relay) hangUpTarget() { r.to.Close() }

// hangUp lets go of both ends and waits for the pumps. The source's migration fails by that, unless it has ended. It may be called more than once.
func (r *relay) hangUp() {
	r.from.Close()
	r.to.Close()
	r.pumps.Wait()
	r.breaks(nil)
}
