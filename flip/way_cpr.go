package flip

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"qlive/internal/qmp"
	"qlive/vmstate"
)

// cprWay is QEMU's cpr-transfer with qlive in the middle of both of its channels, which QEMU knows by paths alone.
//
// Asked to migrate, the source sends the descriptors of all its memory to the first channel and goes on with its guest until the other end of it
// hangs up. Nobody but qlive has that end: it keeps the descriptors, starts the target, gives them to it, and so has a target with a monitor, which can
// be compared with the source, and a handoff that can be held and cancelled, before anything has happened to the guest. To switch, qlive stops the guest
// and hangs up; the source connects to the second channel and sends its devices, which qlive hands on to the target as they come. So a target that hangs or dies does
// not hold the source up, and a source that was stopped before does not start again by itself.
type cprWay struct {
	migrateWay
	given   *descriptors
	offered *net.UnixConn // the source waits for its end
	giving  chan error    // how giving the descriptors to the target has ended; nil before it has begun
	cease   context.CancelFunc
	target  *net.UnixConn // to the target: its guest
	from    *net.UnixConn // from the source: its devices
}

// The sockets that the source connects to. They lie in the folder of its generation only until it has.
const (
	cprSocket  = "cpr.sock"
	mainSocket = "main.sock"
)

// offerLimit is how long the source may take to send its descriptors: some 2 ms, once it gets to it.
const offerLimit = 20 * time.Second

// setMode makes the source's next migration a cpr-transfer, and what it then calls blockers those of that mode.
func (w *cprWay) setMode(ctx context.Context) error {
	mode := qmp.MigModeCPRTransfer
	if err := w.h.cfg.Source.Monitor.MigrateSetParameters(ctx, qmp.MigrateParameters{Mode: &mode}); err != nil {
		return err
	}
	return w.h.equip(ctx, w.h.cfg.Source, plainCapabilities())
}

// plainCapabilities are those of a migration that carries devices alone, one way.
func plainCapabilities() map[string]bool {
	return map[string]bool{qmp.CapEvents: true, qmp.CapReturnPath: false, qmp.CapIgnoreShared: false}
}

// offer lets the source give its descriptors, and begins to wait for the target that they are for.
func (w *cprWay) offer(ctx context.Context) error {
	within, cancel := context.WithTimeoutCause(ctx, offerLimit,
		vmstate.Errorf(vmstate.Timeout, "cannot get the source's descriptors: it has not sent them for %s", offerLimit))
	defer cancel()
	socket, err := w.listen(cprSocket)
	if err != nil {
		return err
	}
	defer socket.Close()
	asked := make(chan error, 1)
	go func() {
		err := w.h.cfg.Source.Monitor.MigrateCPR(within, w.path(mainSocket), w.path(cprSocket))
		if err != nil {
			socket.Close() // nobody will come
		}
		asked <- err
	}()
	err = w.take(within, socket)
	if err != nil && w.offered != nil {
		w.offered.Close() // the source writes no more, and answers
	}
	if refused := <-asked; refused != nil {
		return fmt.Errorf("cannot begin cpr-transfer: %w", refused)
	}
	if err != nil {
		return err
	}
	words, err := w.given.words(w.h.Migration().To.Version)
	if err != nil {
		return vmstate.Errorf(vmstate.Incompatible, "cannot hand over by cpr-transfer: %w", err).With("choose QEMU 10.1 or later as the target")
	}
	w.begin(ctx, words)
	return nil
}

// begin begins to give the descriptors; close ends it.
func (w *cprWay) begin(ctx context.Context, words []byte) {
	ctx, w.cease = context.WithCancel(context.WithoutCancel(ctx))
	giving := make(chan error, 1)
	w.giving = giving
	go func() { giving <- w.give(ctx, words) }()
}

func (w *cprWay) path(name string) string { return filepath.Join(w.h.cfg.Source.Dir, name) }

// listen makes a socket for the source to connect to.
func (w *cprWay) listen(name string) (*net.UnixListener, error) {
	path := w.path(name)
	err := os.Remove(path) // left by a daemon that was killed
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	var l *net.UnixListener
	if err == nil {
		l, err = net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	}
	if err == nil {
		err = os.Chmod(path, 0o600)
	}
	if err == nil && w.h.cfg.Own != nil {
		err = w.h.cfg.Own(path)
	}
	if err != nil {
		if l != nil {
			l.Close()
		}
		return nil, fmt.Errorf("cannot make a socket for the source: %w", err)
	}
	return l, nil
}

// accept waits for the source, while it lives. Anyone else who connects is turned away.
func (w *cprWay) accept(ctx context.Context, l *net.UnixListener) (*net.UnixConn, error) {
	source := w.h.cfg.Source
	within, gone := context.WithCancelCause(ctx)
	defer endsWith(within, l)()
	var watch sync.WaitGroup
	watch.Go(func() {
		select {
		case <-source.Gone():
			gone(w.h.sourceEnded(nil))
		case <-within.Done():
		}
	})
	defer watch.Wait()
	defer gone(nil)
	for {
		conn, err := l.AcceptUnix()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil, context.Cause(within)
		}
		if err != nil {
			return nil, fmt.Errorf("cannot wait for the source to connect: %w", err)
		}
		pid, err := peerOf(conn)
		if err == nil && pid == source.Process.PID() {
			return conn, nil
		}
		conn.Close()
	}
}

// peerOf is the process at the other end (SO_PEERCRED, unix(7)).
func peerOf(conn *net.UnixConn) (int, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var peer *unix.Ucred
	var failed error
	if err := raw.Control(func(fd uintptr) { peer, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return 0, err
	}
	if failed != nil {
		return 0, failed
	}
	return int(peer.Pid), nil
}

// take waits for the source and its descriptors.
func (w *cprWay) take(ctx context.Context, socket *net.UnixListener) (err error) {
	if w.offered, err = w.accept(ctx, socket); err != nil {
		return err
	}
	defer endsWith(ctx, w.offered)()
	w.given, err = takeDescriptors(w.offered)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return context.Cause(ctx)
	}
	return err
}

// give brings the descriptors to the target once it asks for them, which it does before it has a monitor.
func (w *cprWay) give(ctx context.Context, words []byte) error {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: w.h.cfg.Offer, Net: "unix"})
		if err == nil {
			defer conn.Close()
			defer endsWith(ctx, conn)()
			return w.given.give(conn, words)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("cannot give the target its descriptors: %w", err)
		}
	}
}

// taken makes sure that the target has got what was given.
func (w *cprWay) taken(ctx context.Context) error {
	select {
	case err := <-w.giving:
		w.giving = nil
		w.cease()
		w.given.close() // the target has them
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// prepare makes the channel to the target.
func (w *cprWay) prepare(ctx context.Context) (err error) {
	w.target, err = w.h.target.channel(ctx, sendBuffer)
	return err
}

// waits makes sure that the source still does.
func (w *cprWay) waits(ctx context.Context) error {
	m, err := w.h.cfg.Source.Monitor.QueryMigrate(ctx)
	if err == nil && m.Status != qmp.MigrationSetup {
		return &vmstate.Error{Kind: vmstate.Conflict, Detail: "cannot hand over: the source's cpr-transfer has become " + string(m.Status) + " while it waited",
			Words: wordsOf(m.ErrorDesc), Remedy: "ask again"}
	}
	return err
}

func wordsOf(s string) []string {
	if s == "" {
		return nil
	}
	return []string{s}
}

func (w *cprWay) switchOver(ctx context.Context) error {
	return w.h.run(ctx,
		step{name: "stop", do: w.migrateWay.stop},
		step{name: "migrate", do: w.letGo},
		step{name: "load", do: w.load},
	)
}

// letGo hangs up on the source, and waits for it on the other channel. The socket is not there before: had it been, and qlive gone, the source would
// have stopped its guest for nothing.
func (w *cprWay) letGo(ctx context.Context) error {
	socket, err := w.listen(mainSocket)
	if err != nil {
		return err
	}
	defer socket.Close()
	w.offered.Close()
	w.from, err = w.accept(ctx, socket)
	return err
}

// load hands the devices on. Whatever becomes of the target, the source is led to the end of its migration.
func (w *cprWay) load(ctx context.Context) error {
	defer endsWith(ctx, w.from)()
	defer endsWith(ctx, w.target)()
	if _, err := io.Copy(w.target, w.from); err != nil {
		_, _ = io.Copy(io.Discard, w.from) // the two QEMUs say what has happened
	}
	return w.await(ctx)
}

// release ends the source's migration, if it has not ended, and lets the next one be as usual.
func (w *cprWay) release(ctx context.Context) error {
	w.close()
	return takeBackCPR(ctx, w.h.cfg.Source.Monitor)
}

func takeBackCPR(ctx context.Context, monitor *qmp.Client) error {
	err := settleMigration(ctx, monitor)
	mode := qmp.MigModeNormal
	return errors.Join(err, monitor.MigrateSetParameters(ctx, qmp.MigrateParameters{Mode: &mode}))
}

func (w *cprWay) close() {
	if w.giving != nil {
		w.cease()
		<-w.giving // it ends with that
		w.giving = nil
	}
	if w.given != nil {
		w.given.close()
	}
	for _, conn := range []*net.UnixConn{w.offered, w.target, w.from} {
		if conn != nil {
			conn.Close()
		}
	}
	w.migrateWay.close()
}
