package daemon

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"qlive/internal/systemd"
	"qlive/vmstate"
)

const (
	slowestPulse = 10 * time.Second // between two looks at the daemon, where the manager wants no more
	// extension is what the manager is asked for with each pulse of a start or an end that is not over.
	extension = 30 * time.Second
	// standLimit is how long a handoff may keep its guest standing beyond its max_pause_ms until the daemon counts as stuck. All that is waited
	// for then has a limit of its own, and none is longer than half a minute.
	standLimit = 2 * time.Minute
)

// stage is where in its life the daemon is.
type stage int

const (
	starting stage = iota
	serving
	stopping
)

// pulse tells the service manager that the daemon is well, for as long as it is: with each beat it has everybody answer that the
// daemon cannot do without. Whoever is stuck keeps the pulse waiting, and the manager kills the daemon and starts it anew, which
// is cheap: guests do not notice, and what hangs is decided by the new one.
type pulse struct {
	service *systemd.Service
	log     zerolog.Logger
	// answer returns once everybody has answered, and says what the daemon does; an error is why it is not well.
	answer func() (string, error)
	every  time.Duration
	began  time.Time

	ended context.Context
	end   context.CancelFunc
	task  sync.WaitGroup

	mu    sync.Mutex // held while the manager is told, so that it hears of the stages in their order
	stage stage
}

func newPulse(service *systemd.Service, log zerolog.Logger, answer func() (string, error)) *pulse {
	p := &pulse{service: service, log: log, answer: answer, every: slowestPulse, began: time.Now()}
	if limit := service.WatchdogInterval(); limit > 0 {
		p.every = min(p.every, limit/3) // one may come late, or get lost
	}
	p.ended, p.end = context.WithCancel(context.Background())
	return p
}

// begin starts the beating, if anybody listens.
func (p *pulse) begin() {
	if p.service.Notifies() {
		p.task.Go(p.run)
	}
}

func (p *pulse) run() {
	tick := time.NewTicker(p.every)
	defer tick.Stop()
	for {
		p.beat()
		select {
		case <-p.ended.Done():
			return
		case <-tick.C:
		}
	}
}

func (p *pulse) beat() {
	status, err := p.answer()
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil {
		p.log.Error().Err(err).Msg("daemon not well: the service manager is not told that it is")
		p.tellLocked(systemd.Status(err.Error()))
		return
	}
	switch p.stage {
	case starting:
		p.tellLocked(systemd.ExtendTimeout(extension), systemd.Status("starting: "+status))
	case serving:
		p.tellLocked(systemd.Watchdog, systemd.Status(status))
	case stopping:
		p.tellLocked(systemd.Watchdog, systemd.ExtendTimeout(extension), systemd.Status("stopping: "+status))
	}
}

// ready says, once taken is closed, that the daemon answers requests, and once ctx has ended that it stops.
func (p *pulse) ready(ctx context.Context, taken <-chan struct{}) {
	if !p.service.Notifies() {
		return
	}
	p.task.Go(func() {
		select {
		case <-taken:
			p.serve()
		case <-ctx.Done():
		case <-p.ended.Done():
			return
		}
		select {
		case <-ctx.Done():
			p.stop()
		case <-p.ended.Done():
		}
	})
}

// serve says that the daemon answers requests, unless it ends already.
func (p *pulse) serve() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stage == starting {
		p.stage = serving
		p.tellLocked(systemd.Ready, systemd.Watchdog, systemd.Status("serving"))
	}
}

// stop says that the end has begun, once. The beating goes on until close.
func (p *pulse) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stage != stopping {
		p.stage = stopping
		p.tellLocked(systemd.Stopping, systemd.ExtendTimeout(extension), systemd.Status("stopping"))
	}
}

// close ends the beating: there is nothing left that could take long.
func (p *pulse) close() {
	p.end()
	p.task.Wait()
}

func (p *pulse) tellLocked(states ...systemd.State) {
	if err := p.service.Notify(states...); err != nil {
		p.log.Warn().Err(err).Msg("service manager not told")
	}
}

// answer has everybody answer whom the daemon cannot do without: the table of VMs, the registry and the hub by giving their locks, the run
// directory by taking a file, which the journals need too, and the handoffs by not keeping a guest standing longer than they may. It
// returns what the daemon does. A run directory that refuses a file is no reason to start anew, since the next daemon would
// have the same one; one that hangs is.
//
// A QEMU, a client and the tree's readers are not asked: none of them may make the daemon look ill.
func (d *Daemon) answer() (string, error) {
	d.all()
	d.registry.answer()
	now, handoffs := d.Snapshot(), 0
	for _, m := range now.Migrations {
		if m.Phase.Ended() {
			continue
		}
		handoffs++
		if err := overdue(m, d.pulse.began, time.Now()); err != nil {
			return "", err
		}
	}
	status := fmt.Sprintf("%d VMs, %d handoffs under way", len(now.VMs), handoffs)
	if err := os.WriteFile(d.pulseFile(), []byte(time.Now().UTC().Format(time.RFC3339)+"\n"), 0o600); err != nil {
		d.log.Warn().Err(err).Msg("run directory takes no file")
		status += "; cannot write into the run directory: " + err.Error()
	}
	return status, nil
}

func (d *Daemon) pulseFile() string { return filepath.Join(d.cfg.RunDir, "pulse") }

// overdue is why a handoff is stuck at some time, if it is. One that was begun before this daemon is never: what it waits for is a QEMU that
// hangs or a person, and yet another daemon would wait for the same.
func overdue(m vmstate.Migration, began, now time.Time) error {
	if m.StartedAt.Before(began) || m.Phase != vmstate.Switching && m.Phase != vmstate.Committing || len(m.Phases) == 0 {
		return nil
	}
	limit := standLimit
	if m.Spec != nil {
		pause := time.Duration(m.Spec.MaxPauseMS) * time.Millisecond
		if limit += pause; m.Spec.Memory != nil { // undone, it is moved back, which takes as long again
			limit += pause
		}
	}
	if stood := now.Sub(m.Phases[len(m.Phases)-1].At); stood > limit {
		e := vmstate.Errorf(vmstate.Internal, "cannot end %s of %s: it has kept %s standing for %s", m.Phase, m.ID, m.VM, stood.Round(time.Second)).
			With("start the daemon anew, which decides what becomes of it")
		e.VM, e.Migration = m.VM, m.ID
		return e
	}
	return nil
}

// answer returns once the registry and its hub can be changed.
func (r *registry) answer() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.hub.seqAfter()
}
