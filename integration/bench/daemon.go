package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"qlive/integration/guest"
	"qlive/restapi/client"
	"qlive/vmstate"
)

// vmName is what the guest is called that qlive has.
const vmName = "bench"

// handoffLimit bounds one handoff by qlive, in all.
const handoffLimit = 2 * time.Minute

// service is a qlive daemon of its own: run directory, socket and guests belong to this run alone.
type service struct {
	*process
	client *client.Client
	run    string
	tree   string // where its tree is mounted; empty for nowhere
}

// startService runs the daemon of the binary, with its tree or without, and waits until it is ready.
func startService(ctx context.Context, binary, dir string, withTree bool) (*service, error) {
	s := &service{run: filepath.Join(dir, "run")}
	mount := "none"
	if withTree {
		s.tree = filepath.Join(dir, treeDir)
		mount = s.tree
	}
	socket, config := filepath.Join(dir, "qlive.sock"), filepath.Join(dir, "qlive.yaml")
	// What the machine's own daemon is told does not hold for this one.
	err := os.WriteFile(config, []byte("cgroup: none\n"), 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot configure the daemon: %w", err)
	}
	s.process, err = run(binary, dir, []string{"daemon", "--config", config, "--socket", socket, "--mount", mount,
		"--run-dir", s.run, "--state-dir", filepath.Join(dir, "state"), "--log-level", "warn"})
	if err != nil {
		return nil, err
	}
	s.client = client.New(socket)
	if err := s.wait(ctx, func() error { return s.client.Ready(ctx) }); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot start the daemon: %w", err), s.close())
	}
	return s, nil
}

// close ends the daemon.
func (s *service) close() error {
	s.client.Close()
	_ = s.cmd.Process.Signal(syscall.SIGTERM) // an error means that it has ended
	select {
	case <-s.exited:
		return nil
	case <-time.After(startLimit):
		s.kill()
		return fmt.Errorf("cannot end the daemon within %s: it was killed", startLimit)
	}
}

// qliveGuest is a guest in qlive's care.
type qliveGuest struct {
	parts   parts
	service *service
	console *guest.Console
	at      string // version
	pid     int    // of the QEMU that has the guest
}

// newQliveGuest has qlive boot a guest and waits until it has filled its memory.
func newQliveGuest(ctx context.Context, p parts, s Shape, version string, service *service) (*qliveGuest, error) {
	g := &qliveGuest{parts: p, service: service, console: guest.NewConsole(nil), at: version}
	spec := vmstate.VMSpec{
		Name: vmName, Binary: p.QEMU(version), Dir: service.dir,
		Args: append([]string{"-machine", s.Machine}, s.args(p, service.dir, service.dir)...),
	}
	if s.HugePages {
		spec.Memory = vmstate.MemorySpec{Backing: vmstate.Hugetlb, PageBytes: uint64(s.pageBytes())}
	}
	vm, err := service.client.StartVM(ctx, spec)
	if err == nil {
		g.pid = vm.PID
		err = listen(g.console, service.dir)
	}
	if err == nil {
		err = awaitBoot(ctx, g.console, s)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cannot have qlive boot a guest in QEMU %s: %w", version, err), g.close())
	}
	return g, nil
}

// handOver asks qlive for a handoff and waits for its end.
func (g *qliveGuest) handOver(ctx context.Context, c Contender, version string) (Sample, error) {
	ctx, cancel := context.WithTimeout(ctx, handoffLimit)
	defer cancel()
	cpu, err := familyCPU(g.service.pid())
	if err != nil {
		return Sample{}, err
	}
	held := WatchMemory(ctx, memoryTick)
	began := time.Now()
	m, err := g.service.client.Migrate(ctx, vmstate.MigrationSpec{
		VM: vmName, Binary: g.parts.QEMU(version), Mode: vmstate.ModeShared, Way: c.way(),
	}, client.NewKey())
	if err != nil {
		held.Stop()
		return Sample{}, fmt.Errorf("cannot have qlive hand over: %w", err)
	}
	m, err = g.service.client.Migration(ctx, m.ID, handoffLimit)
	total := time.Since(began)
	extra := held.Stop()
	if err == nil && m.Phase != vmstate.Completed {
		err = fmt.Errorf("it is %s: %w", m.Phase, problem(m.Error))
	}
	if err != nil {
		return Sample{}, fmt.Errorf("cannot have qlive hand over from QEMU %s to %s: %w", g.at, version, err)
	}
	g.at, g.pid = version, m.To.PID
	after, err := familyCPU(g.service.pid())
	if err != nil {
		return Sample{}, err
	}
	target, err := footprint(g.pid)
	if m.PauseUS == nil || m.QEMUPause == nil {
		return Sample{}, errors.Join(err, fmt.Errorf("cannot tell the pause: qlive does not"))
	}
	trace, errTrace := g.service.client.Trace(ctx, m.ID)
	laps, errLaps := tracedLaps(trace, c.way())
	return Sample{
		LapsUS: laps, PauseUS: *m.PauseUS, QEMUPauseUS: *m.QEMUPause, TotalUS: total.Microseconds(), HeldBytes: extra,
		TargetBytes: target, CPUUS: (after - cpu).Microseconds(),
	}, errors.Join(err, errTrace, errLaps)
}

func problem(p *vmstate.Problem) error {
	if p == nil {
		return errors.New("no reason is given")
	}
	return fmt.Errorf("%s %q", p.Detail, p.QEMU)
}

func (g *qliveGuest) stand(ctx context.Context) error {
	_, err := g.service.client.Pause(ctx, vmName)
	return err
}

func (g *qliveGuest) walk(ctx context.Context) error {
	_, err := g.service.client.Resume(ctx, vmName)
	return err
}

func (g *qliveGuest) serial() *guest.Console { return g.console }

// close has qlive kill the guest. What it cannot end, as in the middle of a handoff, is seen to by endLeftovers.
func (g *qliveGuest) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), startLimit)
	defer cancel()
	if g.pid != 0 {
		_ = g.service.client.RemoveVM(ctx, vmName, true)
	}
	return g.console.Close()
}
