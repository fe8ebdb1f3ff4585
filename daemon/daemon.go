package daemon

import (
	"cmp"
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"qlive/flip"
	"qlive/fsview"
	"qlive/internal/qemu"
	"qlive/internal/systemd"
	"qlive/vmstate"
)

// Daemon is qlive at work. Set it up with [New], then [Daemon.Open] and [Daemon.Serve]; [Daemon.Close] ends what these began and leaves
// the guests running.
type Daemon struct {
	cfg        Config
	log        zerolog.Logger
	failpoints flip.Failpoints
	contLimit  time.Duration // as of Options
	answerTime time.Duration // for a QEMU to answer on its monitor after its start
	hub        *hub
	registry   *registry
	prober     *qemu.Prober
	metrics    *metrics
	tree       *fsview.FS
	unmounted  error // why there is no tree; set by Open
	lock       *os.File
	systemd    *systemd.Service
	custody    *custody
	pulse      *pulse
	taken      chan struct{} // closed once every guest that an earlier daemon has left is taken up
	cgroups    cgroups
	lull       lull
	relayVerb  string
	trust      vmstate.Trust // in the host's users; set by Open

	condition   *condition
	definitions *definitions

	tasks    sync.WaitGroup  // handoffs and watchers
	requests sync.WaitGroup  // that begin them; none once closing is set
	running  context.Context // of the handoffs; ends when the daemon is to end
	stop     context.CancelCauseFunc

	mu       sync.Mutex
	machines map[string]*machine // nil for a name that is being started
	handoffs map[string]*flip.Handoff
	order    []string // ids of handoffs, oldest first
	closing  bool
}

// Options are what is not configuration.
type Options struct {
	Version    string
	Log        zerolog.Logger
	Failpoints flip.Failpoints // nil for none
	// MonitorLimit is how long a QEMU may take to answer on its monitor after its start; 0 takes the default, 20 seconds.
	MonitorLimit time.Duration
	// ContLimit is how long a target may take to answer when it is told to run; 0 takes the default, 30 seconds.
	ContLimit time.Duration
	// Relay is the argument by which this program is a relay (package internal/relay). Empty: it cannot be one, and postcopy goes without.
	Relay string
	// Systemd is the service manager, nil for none. It is closed by who opened it, after the daemon.
	Systemd *systemd.Service
}

// New makes a daemon; nothing is opened yet.
func New(cfg Config, opts Options) *Daemon {
	h := newHub()
	d := &Daemon{
		cfg: cfg, log: opts.Log, hub: h, registry: newRegistry(opts.Version, h),
		failpoints: opts.Failpoints, answerTime: cmp.Or(opts.MonitorLimit, monitorLimit), contLimit: opts.ContLimit, relayVerb: opts.Relay,
		machines: make(map[string]*machine), handoffs: make(map[string]*flip.Handoff),
	}
	d.metrics = newMetrics(opts.Version, d.registry)
	d.systemd, d.custody = opts.Systemd, newCustody(opts.Systemd, opts.Log)
	d.taken = make(chan struct{})
	d.pulse = newPulse(opts.Systemd, opts.Log, d.answer)
	d.condition = newCondition(d.registry)
	d.running, d.stop = context.WithCancelCause(context.Background())
	return d
}

// Open takes the run directory for this daemon alone, mounts the tree, and begins to take up the guests that an earlier daemon has left: the
// daemon's health is ready once all of them are. Without a tree the daemon works all the same, and its health says why there is none.
func (d *Daemon) Open(ctx context.Context) (err error) {
	if err := d.cfg.Check(); err != nil {
		return err
	}
	if err := qemu.CheckPatterns(d.cfg.AllowedBinaries); err != nil {
		return err
	}
	asking, err := qemu.LookUpUser(d.cfg.askingUser())
	if err != nil {
		return err
	}
	d.prober = qemu.NewProber(asking)
	for _, dir := range []string{filepath.Join(d.cfg.RunDir, "vms"), filepath.Dir(d.cfg.Socket)} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return vmstate.Errorf(vmstate.Host, "cannot make %s: %w", dir, err)
		}
	}
	if d.lock, err = lockDir(d.cfg.RunDir, "run_dir, socket and mount"); err != nil {
		return err
	}
	d.pulse.begin()
	defer func() {
		if err != nil {
			d.pulse.close()
			d.custody.closeAll()
			d.lock.Close()
		}
	}()
	d.openCgroups()
	d.trust = d.learnTrust()
	if d.definitions, err = openDefinitions(d.cfg.StateDir, d.condition); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.definitions.close())
		}
	}()
	if err := d.hub.keepNumbers(filepath.Join(d.cfg.RunDir, "events.seq")); err != nil {
		return err
	}
	left, err := d.findLeft()
	if err != nil {
		return err
	}
	d.listDefined()
	d.requests.Add(1)
	d.tasks.Go(func() {
		defer d.requests.Done()
		defer close(d.taken)
		d.takeUp(left)
		d.followDefinitions()
		d.custody.settle(d.isThere)
	})
	if d.cfg.Mount != "none" {
		d.unmounted = d.mount(ctx)
	}
	d.tasks.Go(func() { <-d.taken; d.setReady() })
	d.lookAtRoom()
	d.tasks.Go(d.watchBinaries)
	d.tasks.Go(d.watchRoom)
	d.tasks.Go(d.trimTexts)
	return nil
}

// every does something at this interval until the daemon is to end.
func (d *Daemon) every(interval time.Duration, do func()) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-d.running.Done():
			return
		case <-tick.C:
			do()
		}
	}
}

// setReady says that every guest has been taken up, and what is wrong with the daemon itself.
func (d *Daemon) setReady() {
	d.condition.set("tree", d.unmounted)
	d.condition.setReady()
}

// all are the VMs that have been started.
func (d *Daemon) all() []*machine {
	d.mu.Lock()
	defer d.mu.Unlock()
	var list []*machine
	for _, m := range d.machines {
		if m != nil {
			list = append(list, m)
		}
	}
	return list
}

func (d *Daemon) mount(ctx context.Context) error {
	if err := os.MkdirAll(d.cfg.Mount, 0o755); err != nil && !errors.Is(err, unix.ENOTCONN) && !errors.Is(err, os.ErrExist) {
		return vmstate.Errorf(vmstate.Host, "cannot make the mount point: %w", err)
	}
	tree, err := fsview.Mount(ctx, d.cfg.Mount, d, fsview.Options{
		Logger: d.log, Trust: d.trust, AllowOther: true,
		MaxEventReaders: d.cfg.Limits.Streams, MaxEventReadersPerUser: d.cfg.Limits.StreamsPerUser,
	})
	if err != nil {
		return err
	}
	d.tree = tree
	return nil
}

// lockDir makes this daemon the only one of a directory; own are the keys of the configuration that another daemon must have of its own.
func lockDir(dir, own string) (*os.File, error) {
	path := filepath.Join(dir, "lock")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, vmstate.Errorf(vmstate.Host, "cannot lock %s: %w", dir, err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, vmstate.Errorf(vmstate.Conflict, "cannot use %s: another qlive daemon has it", dir).
			With("stop that daemon, or give this one its own " + own)
	}
	return f, nil
}

// Close ends the daemon: handoffs that can still be undone are, the others finish; then the faces go. The guests run on.
func (d *Daemon) Close(ctx context.Context) error {
	d.pulse.stop()
	d.mu.Lock()
	d.closing = true
	d.mu.Unlock()
	d.requests.Wait()
	machines := d.all()
	d.stop(vmstate.Errorf(vmstate.Cancelled, "cancelled: the daemon is stopping"))
	for _, m := range machines {
		m.waitForHandoff()
	}
	for _, m := range machines {
		m.letGo()
	}
	d.tasks.Wait()
	d.pulse.close()
	_ = os.Remove(d.pulseFile()) // there is none without a manager
	d.custody.closeAll()
	d.hub.close()
	var errs []error
	if d.tree != nil {
		errs = append(errs, d.tree.Close(ctx))
	}
	errs = append(errs, d.hub.dropNumbers())
	if d.lock != nil {
		errs = append(errs, d.cgroups.close(), d.definitions.close(), d.lock.Close())
	}
	return errors.Join(errs...)
}

// keep remembers a handoff for its trace, as long as the registry remembers its migration.
func (d *Daemon) keep(h *flip.Handoff) {
	d.mu.Lock()
	defer d.mu.Unlock()
	id := h.Migration().ID
	d.handoffs[id] = h
	d.order = append(d.order, id)
	if len(d.order) > keptMigrations {
		delete(d.handoffs, d.order[0])
		d.order = d.order[1:]
	}
}

// forget takes a VM that has ended off the list, its definition with it, and last of all frees its name.
func (d *Daemon) forget(m *machine) {
	if err := d.definitions.drop(m.spec.Name); err != nil {
		m.log.Warn().Err(err).Msg("definition not removed")
	}
	if err := m.removeFiles(); err != nil {
		m.log.Warn().Err(err).Msg("files not removed")
	}
	d.registry.dropVM(m.spec.Name)
	d.mu.Lock()
	defer d.mu.Unlock()
	m.forgotten = true
	delete(d.machines, m.spec.Name)
}
