package stranger

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"qlive/flip"
	"qlive/integration/env"
	"qlive/integration/guest"
	"qlive/integration/guest/beats"
	"qlive/internal/qemu"
	"qlive/internal/qmp"
)

// Spec describes a guest.
type Spec struct {
	QEMU   string // version
	MiB    int
	Guest  guest.Params
	Paused bool     // -S
	Args   []string // more arguments of both QEMUs
	Source []string // more arguments of the source alone
}

// Guest is one that runs in a QEMU of its own, and may be moved to another once.
type Guest struct {
	Spec   Spec
	Source *flip.Side
	env    env.Env
	dir    string
	initrd string
	ends   []func()
}

// Start starts QEMU as a stranger would. Close ends it.
func Start(ctx context.Context, e env.Env, s Spec) (*Guest, error) {
	initrd, err := guest.Build(ctx, e.Cache)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "qlive-stranger-")
	if err != nil {
		return nil, err
	}
	g := &Guest{Spec: s, env: e, dir: dir, initrd: initrd}
	args := append(g.args("source"), "-m", strconv.Itoa(s.MiB), "-machine", machine)
	args = append(args, s.Source...)
	if s.Paused {
		args = append(args, "-S")
	}
	if g.Source, err = g.run(ctx, "source", s.QEMU, qemu.Command{Args: args}); err != nil {
		return nil, errors.Join(err, g.Close())
	}
	return g, nil
}

const machine = "pc-q35-7.2"

// args are those that both sides have.
func (g *Guest) args(name string) []string {
	return append([]string{"-accel", "tcg", "-cpu", "qemu64", "-smp", "1", "-nodefaults", "-no-user-config", "-display", "none",
		"-kernel", g.env.Kernel, "-initrd", g.initrd, "-append", guest.Append(g.Spec.Guest),
		"-serial", "file:" + g.console(name), "-qmp", "unix:" + g.path(name, "qmp") + ",server=on,wait=off"}, g.Spec.Args...)
}

func (g *Guest) path(name, kind string) string { return filepath.Join(g.dir, name+"."+kind) }
func (g *Guest) console(name string) string    { return g.path(name, "console") }

// run starts a QEMU and meets its monitor. What is returned next to an error has been started.
func (g *Guest) run(ctx context.Context, name, version string, c qemu.Command) (*flip.Side, error) {
	binary, err := qemu.Admit(g.env.QEMU(version), nil)
	if err != nil {
		return nil, err
	}
	c.Binary, c.Log = binary, g.path(name, "log")
	p, err := qemu.Start(c)
	if err != nil {
		return nil, err
	}
	side := &flip.Side{Process: p, Binary: binary.Path, Version: version, Dir: g.dir}
	g.ends = append(g.ends, func() {
		_ = p.Kill() // it may have ended
		<-p.Done()
		if side.Monitor != nil {
			side.Monitor.Close()
		}
		_ = p.Release() // nothing is left of it
	})
	return side, g.meet(ctx, name, side)
}

// meet connects to the monitor of a side.
func (g *Guest) meet(ctx context.Context, name string, side *flip.Side) (err error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if side.Monitor, err = qmp.Dial(ctx, g.path(name, "qmp"), qmp.Options{Exited: side.Process.Done()}); err != nil {
		return fmt.Errorf("%w: %q", err, side.Process.Tail(qemu.Words))
	}
	return nil
}

// limit bounds every wait.
const limit = 60 * time.Second

// Truth is what the guest has said so far, wherever it ran.
func (g *Guest) Truth() (beats.Report, error) {
	var parser beats.Parser
	for _, name := range []string{"source", "target"} {
		text, err := os.ReadFile(g.console(name))
		if err != nil && !os.IsNotExist(err) {
			return beats.Report{}, err
		}
		parser.Feed(text, time.Time{})
	}
	return parser.Report(), nil
}

// Path is a name in the guest's own folder.
func (g *Guest) Path(name string) string { return filepath.Join(g.dir, name) }

// Until waits until what the guest has said is enough.
func (g *Guest) Until(ctx context.Context, what string, enough func(beats.Report) bool) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		r, err := g.Truth()
		if err != nil || enough(r) {
			return err
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("waited %s until the guest %s: %d beats, %d verifications, QEMU: %q", limit, what, r.Beats, r.Mems, g.Source.Process.Tail(qemu.Words))
		}
	}
}

// Up waits until the guest has filled its memory and beats.
func (g *Guest) Up(ctx context.Context) error {
	return g.Until(ctx, "is up", func(r beats.Report) bool { return len(r.Boots) > 0 && r.Boots[0].Fill != nil && r.Beats > 50 })
}

// Close ends both QEMUs and removes what they have made.
func (g *Guest) Close() error {
	for _, end := range g.ends {
		end()
	}
	g.ends = nil
	return os.RemoveAll(g.dir)
}
