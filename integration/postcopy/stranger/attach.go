package stranger

import (
	"context"

	"qlive/flip"
	"qlive/integration/env"
	"qlive/integration/guest"
	"qlive/internal/qemu"
)

// Running names a guest to another process.
type Running struct {
	Spec   Spec
	Dir    string
	Source qemu.Identity
}

// HangUp lets go of the source's monitor, which serves one at a time, so that another process can attach to the guest.
func (g *Guest) HangUp() Running {
	g.Source.Monitor.Close()
	return Running{g.Spec, g.dir, g.Source.Process.ID()}
}

// Attach takes hold of a guest that another process has started, and goes on to look after.
func Attach(ctx context.Context, e env.Env, r Running) (*Guest, error) {
	initrd, err := guest.Build(ctx, e.Cache)
	if err != nil {
		return nil, err
	}
	g := &Guest{Spec: r.Spec, env: e, dir: r.Dir, initrd: initrd}
	g.Source, err = g.attach(ctx, "source", r.Source)
	return g, err
}

func (g *Guest) attach(ctx context.Context, name string, id qemu.Identity) (*flip.Side, error) {
	p, err := qemu.Attach(id, g.path(name, "log"))
	if err != nil {
		return nil, err
	}
	side := &flip.Side{Process: p, Version: g.Spec.QEMU, Dir: g.dir}
	return side, g.meet(ctx, name, side)
}

// TakeUp gives both sides of a handoff whose process has gone, with monitors of their own; one that has ended is nil. What is there still is ended
// with the guest.
func (g *Guest) TakeUp(ctx context.Context, last flip.Record) (source, target *flip.Side, err error) {
	sides := make([]*flip.Side, 2)
	for i, side := range []struct {
		name string
		id   flip.ProcessID
	}{{"source", last.Source}, {"target", last.Target}} {
		if side.id == (flip.ProcessID{}) {
			continue
		}
		if sides[i], err = g.attach(ctx, side.name, qemu.Identity{PID: side.id.PID, Start: side.id.StartTime}); sides[i] == nil {
			continue // it is gone
		}
		p := sides[i].Process
		g.ends = append(g.ends, func() {
			_ = p.Kill() // it may have ended
			<-p.Done()
			_ = p.Release() // nothing is left of it
		})
		if err != nil {
			if _, over := p.Exited(); !over {
				return nil, nil, err
			}
			sides[i] = nil
		}
	}
	return sides[0], sides[1], nil
}
