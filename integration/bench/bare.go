package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"qlive/integration/guest"
	"qlive/internal/proc"
	"qlive/vmstate"
)

// bareGuest is a guest that bare clients hand from one QEMU to the next.
type bareGuest struct {
	parts   parts
	shape   Shape
	dir     string
	console *guest.Console
	machine string // properties that every QEMU of it gets
	at      *seat
	gen     int
}

// seat is one of the QEMUs of a bare guest.
type seat struct {
	*process
	qmp     *monitor
	ram     *os.File
	version string
}

func (s *seat) end() {
	s.kill()
	if s.qmp != nil {
		_ = s.qmp.close()
	}
}

// pause is what a way to hand over reports of itself.
type pause struct {
	began      time.Time // stop was sent or, where QEMU stops the guest itself, its STOP was read
	ended      time.Time // the reply of cont was read
	qemuStop   time.Time // as QEMU stamped it
	qemuResume time.Time
	lapsUS     map[string]int64
	lapped     time.Time // when the last lap ended
}

// way is a bare way to hand a guest over. It leaves both QEMUs alive.
type way func(ctx context.Context, g *bareGuest, target string) (*seat, pause, error)

// newBareGuest boots a guest and waits until it has filled its memory.
func newBareGuest(ctx context.Context, p parts, s Shape, version, dir, machineMore string) (*bareGuest, error) {
	g := &bareGuest{parts: p, shape: s, dir: dir, console: guest.NewConsole(nil), machine: machineMore}
	ram, err := memfd(s.ramBytes(), s.pageBytes())
	if err != nil {
		return nil, err
	}
	g.at, err = g.start(version, ram)
	if err == nil {
		g.at.qmp, err = g.at.monitor(ctx)
	}
	if err == nil {
		err = errors.Join(g.point(), listen(g.console, dir))
	}
	if err == nil {
		err = awaitBoot(ctx, g.console, s)
	}
	if err != nil {
		if g.at == nil {
			_ = ram.Close()
		}
		return nil, errors.Join(fmt.Errorf("cannot boot a guest in QEMU %s: %w", version, err), g.close())
	}
	return g, nil
}

// start runs another QEMU for the guest.
func (g *bareGuest) start(version string, ram *os.File, more ...string) (*seat, error) {
	binary := g.parts.QEMU(version)
	if binary == "" {
		return nil, fmt.Errorf("cannot find QEMU %s: run `make setup`", version)
	}
	dir := filepath.Join(g.dir, fmt.Sprintf("g%d", g.gen))
	g.gen++
	p, err := run(binary, dir, append(g.shape.bareArgs(g.parts, g.dir, dir, g.machine), more...), ram)
	if err != nil {
		return nil, err
	}
	return &seat{process: p, ram: ram, version: version}, nil
}

// listen follows the serial port in dir.
func listen(c *guest.Console, dir string) error {
	port, err := openSerial(dir)
	if err == nil {
		c.Attach(port)
	}
	return err
}

// point makes the guest's public name of its serial port lead to the QEMU that has the guest.
func (g *bareGuest) point() error {
	name := filepath.Join(g.dir, socketName)
	if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return os.Symlink(filepath.Join(g.at.dir, socketName), name)
}

// target starts and meets a QEMU that waits for a guest.
func (g *bareGuest) target(ctx context.Context, version string, ram *os.File, more ...string) (*seat, error) {
	s, err := g.start(version, ram, append([]string{"-S", "-incoming", "defer"}, more...)...)
	if err != nil {
		return nil, err
	}
	if s.qmp, err = s.monitor(ctx); err != nil {
		s.end()
		return nil, err
	}
	return s, nil
}

// bareWay is the bare client of a contender.
func bareWay(c Contender) (way, error) {
	switch c {
	case Floor(vmstate.WayDeviceState):
		return deviceState, nil
	case DeviceStateBare:
		return deviceStateBare, nil
	case Floor(vmstate.WayStopFirst):
		return stopFirst, nil
	case Floor(vmstate.WayLive):
		return live, nil
	case Precopy:
		return precopy, nil
	case PrecopyTuned:
		return precopyTuned, nil
	case CPR:
		return cpr, nil
	}
	return nil, fmt.Errorf("cannot hand over by %s: there is no such client", c)
}

// handOver takes the guest into another QEMU and ends the one it was in.
func (g *bareGuest) handOver(ctx context.Context, c Contender, version string) (Sample, error) {
	how, err := bareWay(c)
	if err != nil {
		return Sample{}, err
	}
	s, err := g.handOverBy(ctx, how, version)
	if err == nil && c == DeviceStateBare {
		// The target expects streams without a configuration section for the rest of its life: it must not stay.
		_, err = g.handOverBy(ctx, deviceState, version)
	}
	return s, err
}

func (g *bareGuest) handOverBy(ctx context.Context, how way, version string) (Sample, error) {
	began := time.Now()
	source := g.at
	before, err := proc.ReadStat(source.pid())
	if err != nil {
		return Sample{}, err
	}
	held := WatchMemory(ctx, memoryTick)
	target, p, err := how(ctx, g, version)
	if err != nil {
		held.Stop()
		return Sample{}, fmt.Errorf("cannot hand over from QEMU %s to %s: %w", source.version, version, err)
	}
	g.at = target
	footprint, err := footprint(target.pid())
	source.quit()
	s := Sample{
		PauseUS: p.ended.Sub(p.began).Microseconds(), QEMUPauseUS: p.qemuResume.Sub(p.qemuStop).Microseconds(),
		LapsUS: p.lapsUS, TotalUS: time.Since(began).Microseconds(), HeldBytes: held.Stop(), TargetBytes: footprint,
	}
	if source.ram != target.ram {
		err = errors.Join(err, source.ram.Close())
	}
	err = errors.Join(err, g.point())
	after, errStat := proc.ReadStat(target.pid())
	s.CPUUS = (source.cpu() - before.User - before.System + after.User + after.System).Microseconds()
	return s, errors.Join(err, errStat)
}

// quit ends the source as an operator would, and then for sure.
func (s *seat) quit() {
	if err := s.qmp.send(`{"execute":"quit"}`, -1); err == nil {
		select {
		case <-s.exited:
		case <-time.After(startLimit):
		}
	}
	s.end()
}

// cpu is what an ended process has used.
func (p *process) cpu() time.Duration {
	if p.usage == nil {
		return 0
	}
	return time.Duration(p.usage.Utime.Nano() + p.usage.Stime.Nano())
}

// resume tells the target to run the guest, which ends the pause.
func (p *pause) resume(source, target *seat) error {
	if err := target.qmp.do(cmdCont, nil); err != nil {
		return err
	}
	p.lap("cont")
	p.ended = p.lapped
	resumed, err := target.qmp.await("RESUME", named("RESUME"))
	if err != nil {
		return err
	}
	p.qemuResume = resumed.qemu
	if p.qemuStop.IsZero() {
		stopped, err := source.qmp.await("STOP", named("STOP"))
		if err != nil {
			return err
		}
		p.qemuStop = stopped.qemu
	}
	return nil
}

func (g *bareGuest) close() error {
	if g.at != nil {
		g.at.end()
		_ = g.at.ram.Close()
	}
	return g.console.Close()
}

func (g *bareGuest) stand(context.Context) error { return g.at.qmp.do(cmdStop, nil) }

func (g *bareGuest) walk(context.Context) error {
	err := g.at.qmp.do(cmdCont, nil)
	g.at.qmp.events = nil // the STOP and RESUME of a handoff are still to come
	return err
}

func (g *bareGuest) serial() *guest.Console { return g.console }
