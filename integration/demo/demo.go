package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"qlive/integration/guest/beats"
	"qlive/restapi/client"
	"qlive/vmstate"
)

// Options say how to run the demonstration.
type Options struct {
	Stdout    io.Writer
	Getenv    func(string) string
	Program   string // path of a qlive that has the verbs daemon and run
	Dir       string // where the folder of the run is made; /run, or else the folder for temporary files, if empty
	MemoryMiB int    // RAM of the guest; DefaultMemoryMiB if 0
	Accel     string // kvm or tcg; KVM where it runs Linux, else TCG, if empty
}

// RAM of the guest, in MiB. The guest itself needs what it does not fill.
const (
	DefaultMemoryMiB = 512
	MinMemoryMiB     = 192
	ownMiB           = 128
)

// mostTime bounds the whole run, so that one that hangs tells so and tidies up.
const mostTime = 10 * time.Minute

// vm is the name of the guest.
const vm = "vm1"

// Run shows it all. The error is nil if every handoff completed, no beat was lost and memory is what it was. It
// wraps context.Canceled if ctx, or a signal, ended it; nothing is left behind then either.
func Run(ctx context.Context, o Options) (err error) {
	ctx, stop := listen(ctx)
	defer stop()
	ctx, cancel := context.WithTimeoutCause(ctx, mostTime,
		vmstate.Errorf(vmstate.Timeout, "cannot go on: the demonstration has taken more than %s", mostTime).With("is the machine very busy?"))
	defer cancel()
	if o.MemoryMiB == 0 {
		o.MemoryMiB = DefaultMemoryMiB
	}
	if err := check(o); err != nil {
		return err
	}
	out := newScreen(o.Stdout, o.Getenv)
	dir, err := newPlace(o.Dir)
	if err != nil {
		return err
	}
	s := &show{Options: o, out: out, place: dir}
	err = s.run(ctx)
	if ctx.Err() != nil {
		err = context.Cause(ctx) // what failed because of it says less
	}
	if err == nil {
		err = out.err
	}
	switch left := s.end(err); {
	case left == nil:
		return err
	case errors.Is(err, context.Canceled):
		return left // that it was interrupted has been said
	default:
		return errors.Join(err, left)
	}
}

// show is one run.
type show struct {
	Options
	out    *screen
	place  *place
	cast   cast
	daemon *process
	client *client.Client
	heart  *heart
	meter  *meter

	up     beats.Boot // how the guest came up
	quiet  time.Duration
	before held
	hops   []hop
	said   beats.Report // in the end
}

// run is the show from its opening to the table.
func (s *show) run(ctx context.Context) error {
	s.out.text("qlive hands a running guest from one QEMU to another, on the same memory.")
	s.out.text("This is real: its own daemon, a Linux guest, every QEMU there is, all in")
	s.out.text("%s. Ctrl-C ends it early; nothing stays behind.", s.place.dir)
	s.out.text("")
	var err error
	if s.cast, err = findCast(ctx, s.Accel, s.place, s.out); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if err := s.open(ctx, cancel); err != nil {
		return orCause(ctx, err)
	}
	if err := s.boot(ctx); err != nil {
		return orCause(ctx, err)
	}
	for i, target := range s.cast.path[1:] {
		h, err := s.hand(ctx, i, target)
		s.hops = append(s.hops, h)
		if err != nil {
			return orCause(ctx, err)
		}
	}
	s.said = s.heart.Report()
	s.out.table(s)
	return s.verdict()
}

// orCause is why ctx ended, if it has: what failed then failed because of it.
func orCause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// open starts the daemon.
func (s *show) open(ctx context.Context, cancel context.CancelCauseFunc) error {
	if err := s.place.furnish(s.Program, s.cast); err != nil {
		return err
	}
	began := time.Now()
	s.out.command("export QLIVE_SOCKET=" + s.place.socket())
	s.out.command("qlive daemon --config " + s.place.config() + " &")
	var err error
	if s.daemon, err = startDaemon(s.place, cancel); err != nil {
		return err
	}
	s.client = client.New(s.place.socket())
	const limit = 30 * time.Second
	err = await(ctx, limit, "the daemon is ready", func() error { return s.client.Ready(ctx) })
	if err != nil {
		return err
	}
	s.out.text("  ready after %s", milliseconds(time.Since(began)))
	return nil
}

// boot starts the guest, waits until it has filled its memory, and sees what it is like while nothing happens to it.
func (s *show) boot(ctx context.Context) error {
	fill := s.MemoryMiB - ownMiB
	if _, err := s.out.run(ctx, s.place, s.cast.commandLine(s.place, s.MemoryMiB, fill)); err != nil {
		return err
	}
	if _, err := s.out.run(ctx, s.place, "cat "+s.place.tree(vm, "status")); err != nil {
		return err
	}
	s.out.live("  waiting for Linux to boot and to fill %d MiB …", fill)
	var err error
	if s.heart, err = listenTo(ctx, s.place, s.client); err != nil {
		return err
	}
	began := time.Now()
	limited, cancel := context.WithTimeout(ctx, bootLimit)
	defer cancel()
	if s.up, err = s.heart.AwaitBoot(limited, 1); err != nil {
		return err
	}
	s.out.text("  Linux runs after %s. It has filled %d MiB, goes on rewriting", milliseconds(time.Since(began)), fill)
	s.out.text("  some of it, and beats every 2 ms on its serial console.")
	if s.quiet, err = s.heart.calm(ctx); err != nil {
		return err
	}
	now, err := s.client.VM(ctx, vm)
	if err != nil {
		return err
	}
	if s.meter, err = startMeter(s.daemon.pid(), now); err != nil {
		return err
	}
	s.before = s.meter.now()
	return nil
}

// bootLimit is how long the guest may take to come up, on a machine with much else to do.
const bootLimit = 3 * time.Minute

// await asks until ask has no error, for as long as the limit.
func await(ctx context.Context, limit time.Duration, what string, ask func() error) error {
	deadline := time.Now().Add(limit)
	for {
		err := ask()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return vmstate.Errorf(vmstate.Timeout, "cannot wait longer than %s until %s: %w", limit, what, err)
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func milliseconds(d time.Duration) string {
	if d >= time.Second {
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
	return fmt.Sprintf("%.0f ms", float64(d)/float64(time.Millisecond))
}

// end tidies up, and says so. It waits for all that it ends; signals do not cut it short.
func (s *show) end(failure error) error {
	s.out.text("")
	if errors.Is(failure, context.Canceled) {
		s.out.text("Interrupted.")
	}
	s.out.live("ending …")
	ctx, cancel := context.WithTimeout(context.Background(), endLimit)
	defer cancel()
	var words []string
	if s.meter != nil {
		s.meter.stop()
	}
	if s.client != nil {
		s.dismiss(ctx)
		s.client.Close()
	}
	var errs []error
	deaf := make(chan error, 1)
	if s.heart != nil { // before the daemon, which waits for those who read its tree; a daemon that hangs lets go of them as it is killed
		go func() { deaf <- s.heart.Close() }()
	} else {
		deaf <- nil
	}
	if s.daemon != nil {
		errs = append(errs, s.daemon.end(ctx))
	}
	errs = append(errs, <-deaf)
	if failure != nil && !errors.Is(failure, context.Canceled) {
		words = s.place.logs()
	}
	errs = append(errs, s.place.remove())
	for _, line := range words {
		s.out.text("%s", line)
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	s.out.text("Nothing is left of it: no process, no mount, no file.")
	return nil
}

// endLimit bounds the end.
const endLimit = 20 * time.Second

// dismiss ends the guest the way its owner would. If that fails, the daemon is ended all the same, and then whatever is left.
func (s *show) dismiss(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, endLimit/2)
	defer cancel()
	for {
		err := s.client.RemoveVM(ctx, vm, true)
		if vmstate.KindOf(err) != vmstate.Busy {
			return
		}
		select { // a handoff is under way; it takes no second
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return
		}
	}
}
