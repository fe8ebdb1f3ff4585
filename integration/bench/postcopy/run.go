package postcopy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"qlive/integration/env"
	"qlive/integration/guest"
	"qlive/integration/guest/beats"
	"qlive/integration/postcopy/stranger"
	"qlive/internal/proc"
	"qlive/internal/qmp"
)

// Options of a run.
type Options struct {
	Pairs    int       // of moves
	MiB      int       // of each guest
	FillMiB  int       // of it that the guest has filled
	From, To string    // versions of QEMU
	Progress io.Writer // nil for none
}

// Default is what a run measures if nothing else is asked for.
func Default() Options {
	return Options{Pairs: 6, MiB: 1024, FillMiB: 640, From: env.Installed, To: env.Stable}
}

// Sample is one move of one guest.
type Sample struct {
	Seconds  float64 `json:"seconds"`        // from the source's STOP until the target has all pages
	MiBPerS  float64 `json:"mib_per_second"` // the guest's size over that
	PauseMS  float64 `json:"pause_ms"`       // from STOP to RESUME, by QEMU's stamps
	PeakMiB  float64 `json:"peak_mib"`       // of guest RAM in source and target together
	HostMiB  float64 `json:"host_mib"`       // AnonPages + Shmem + huge pages of the host at the peak, beyond what there was before the target started
	StartMiB float64 `json:"start_mib"`      // of guest RAM that the source had touched when it began
}

// Pair is a move by qlive and one by hand.
type Pair struct {
	QliveFirst  bool `json:"qlive_first"`
	Qlive, Bare Sample
}

// Ratio is qlive's throughput over the bare one's.
func (p Pair) Ratio() float64 { return p.Qlive.MiBPerS / p.Bare.MiBPerS }

// Run measures. Each move has a guest of its own; who goes first alternates.
func Run(ctx context.Context, o Options) (Report, error) {
	e, err := env.Locate()
	if err != nil {
		return Report{}, err
	}
	r := Report{Options: o}
	for i := range o.Pairs {
		p := Pair{QliveFirst: i%2 == 0}
		movers := []struct {
			into *Sample
			move mover
		}{{&p.Qlive, byQlive}, {&p.Bare, byHand}}
		if !p.QliveFirst {
			movers[0], movers[1] = movers[1], movers[0]
		}
		for _, m := range movers {
			if *m.into, err = measure(ctx, e, o, m.move); err != nil {
				return r, err
			}
		}
		r.Pairs = append(r.Pairs, p)
		if o.Progress != nil {
			fmt.Fprintf(o.Progress, "pair %d of %d: qlive %.0f MiB/s, by hand %.0f MiB/s\n", i+1, o.Pairs, p.Qlive.MiBPerS, p.Bare.MiBPerS)
		}
	}
	return r, nil
}

// mover moves the guest and returns when it is all there.
type mover func(context.Context, *stranger.Guest, *stranger.Move) error

func byQlive(ctx context.Context, _ *stranger.Guest, m *stranger.Move) error {
	_, err := m.Run(ctx)
	return err
}

func measure(ctx context.Context, e env.Env, o Options, move mover) (s Sample, err error) {
	g, err := stranger.Start(ctx, e, stranger.Spec{QEMU: o.From, MiB: o.MiB, Guest: guest.Params{FillMiB: o.FillMiB, VerifySecs: -1}})
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, g.Close()) }()
	if err := g.Up(ctx); err != nil {
		return s, err
	}
	m, err := g.Move(o.To, stranger.Options{Relay: true})
	if err != nil {
		return s, err
	}
	before, err := stranger.Held(g, m)
	if err != nil {
		return s, err
	}
	s.StartMiB = mib(before)
	said := listen(g, m)
	peak := watch(g, m)
	err = move(ctx, g, m)
	s.PeakMiB, s.HostMiB = peak()
	stop, resume, end := said()
	switch {
	case err != nil:
		return s, err
	case stop.IsZero() || resume.IsZero() || end.IsZero():
		return s, errors.New("cannot measure the move: QEMU has not said STOP, RESUME and completed")
	}
	s.Seconds = end.Sub(stop).Seconds()
	s.MiBPerS, s.PauseMS = float64(o.MiB)/s.Seconds, float64(resume.Sub(stop).Microseconds())/1000
	r, err := g.Truth()
	if err != nil {
		return s, err
	}
	return s, g.Until(ctx, "goes on", func(later beats.Report) bool { return later.Beats > r.Beats+100 && later.Lost == 0 })
}

func mib(bytes uint64) float64 { return float64(bytes) / (1 << 20) }

// listen notes QEMU's stamps. The target is listened to as soon as it is there; what it returns waits for the end and tells them.
func listen(g *stranger.Guest, m *stranger.Move) func() (stop, resume, end time.Time) {
	source := g.Source.Monitor.Subscribe(qmp.EventStop)
	var target *qmp.Subscription
	m.OnTarget = func(c *qmp.Client) { target = c.Subscribe(qmp.EventResume, qmp.EventMigration) }
	return func() (stop, resume, end time.Time) {
		defer source.Close()
		now, cancel := context.WithCancel(context.Background())
		cancel() // all has been said
		if e, err := source.Next(now); err == nil {
			stop = e.QEMUTime
		}
		for target != nil {
			e, err := target.Next(now)
			if err != nil {
				target.Close()
				break
			}
			if e.Name == qmp.EventResume {
				resume = e.QEMUTime
			} else if e.MigrationStatus() == qmp.MigrationCompleted {
				end = e.QEMUTime
			}
		}
		return stop, resume, end
	}
}

// watch samples how much memory is held, every 10 ms. What it returns ends that and tells the most of guest RAM, and of the whole host beyond the start.
func watch(g *stranger.Guest, m *stranger.Move) func() (ram, host float64) {
	start := ofHost()
	end, done := make(chan struct{}), make(chan struct{})
	var most, mostHost uint64
	go func() {
		defer close(done)
		for {
			if held, err := stranger.Held(g, m); err == nil {
				most = max(most, held)
			}
			mostHost = max(mostHost, ofHost())
			select {
			case <-end:
				return
			case <-time.After(10 * time.Millisecond):
			}
		}
	}()
	return func() (ram, host float64) {
		close(end)
		<-done
		return mib(most), mib(mostHost - min(start, mostHost))
	}
}

// ofHost is what the whole host holds in anonymous memory, tmpfs and huge pages; 0 if it cannot be read.
func ofHost() uint64 {
	m, err := proc.ReadMeminfo()
	if err != nil {
		return 0
	}
	return m.Anon + m.Shmem + m.HugetlbBytes
}
