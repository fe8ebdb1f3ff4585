package flip

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// ends are two relayed QEMUs as the relay does not see them: theirs.
func ends(t *testing.T) (r *relay, source, target *net.UnixConn) {
	t.Helper()
	pair := func() (ours, theirs *net.UnixConn) {
		a, b, err := bufferedPair(relayBuffer)
		if err != nil {
			t.Fatal(err)
		}
		defer a.Close()
		defer b.Close()
		x, err1 := net.FileConn(a)
		y, err2 := net.FileConn(b)
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { x.Close(); y.Close() })
		return x.(*net.UnixConn), y.(*net.UnixConn)
	}
	r = &relay{}
	r.broken, r.breaks = context.WithCancelCause(t.Context())
	r.from, source = pair()
	r.to, target = pair()
	t.Cleanup(r.hangUp)
	return r, source, target
}

func said(t *testing.T, from net.Conn, n int) string {
	t.Helper()
	if err := from.SetReadDeadline(time.Now().Add(60 * time.Second)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, n)
	if _, err := io.ReadFull(from, buf); err != nil {
		t.Fatal(err)
	}
	return string(buf)
}

// What the target answers waits until it is let through, and then comes from the first word on.
func TestRelayHoldsAnswersBack(t *testing.T) {
	r, source, target := ends(t)
	r.send()
	say(t, target, "SHUT")
	say(t, source, "RAM")
	if got := said(t, target, 3); got != "RAM" {
		t.Errorf("the target has got %q", got)
	}
	if err := source.SetReadDeadline(time.Now().Add(10 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if n, err := source.Read(make([]byte, 1)); n > 0 || err == nil {
		t.Error("the source has its answer already")
	}
	r.answer()
	if got := said(t, source, 4); got != "SHUT" {
		t.Errorf("the source has got %q", got)
	}
	if err := source.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := target.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the target does not hear that the source has said all: %v", err)
	}
}

// A target that takes no more breaks the relay, and the source is not hung up on by that: it would let its guest go on while the target may still live.
func TestRelayKeepsTheSource(t *testing.T) {
	r, source, target := ends(t)
	ctx, cancel := r.within(t.Context())
	defer cancel()
	r.send()
	if err := target.Close(); err != nil {
		t.Fatal(err)
	}
	for ctx.Err() == nil {
		if err := source.SetWriteDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if _, err := source.Write([]byte("RAM")); errors.Is(err, unix.EPIPE) {
			t.Fatal("the source is hung up on")
		}
	}
	if cause := context.Cause(ctx); !errors.Is(cause, unix.EPIPE) || !hungUp(cause) {
		t.Errorf("it breaks with %v", cause)
	}
	r.hangUpTarget()
	if err := source.SetReadDeadline(time.Now().Add(10 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := source.Read(make([]byte, 1)); errors.Is(err, io.EOF) {
		t.Error("the source is hung up on with the target")
	}
	r.hangUp()
	r.hangUp()
	if err := source.SetReadDeadline(time.Now().Add(60 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := source.Read(make([]byte, 1)); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the source is not hung up on: %v", err)
	}
}
