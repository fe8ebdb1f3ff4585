package stage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"qlive/internal/proc"
	"qlive/vmstate"
)

// stranger is a QEMU that the stage itself has started, with the guest's RAM private to it.
type stranger struct {
	cmd  *exec.Cmd
	gone chan struct{} // closed once it has ended and is buried
}

// Adopt starts a guest as a stranger would, with RAM that is private to its QEMU, has the daemon adopt it, and waits until it beats.
func (s *Stage) Adopt(ctx context.Context, shape Shape) (*Guest, error) {
	g := s.newGuest(shape)
	dir := filepath.Join(s.Dir, "strangers", g.Name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	console, err := os.Create(filepath.Join(dir, "console"))
	if err != nil {
		return nil, err
	}
	defer console.Close()
	monitor := filepath.Join(dir, "qmp")
	cmd := exec.Command(s.Env.QEMU(shape.QEMU), append(s.arguments(g.Name, shape), "-qmp", "unix:"+monitor+",server=on,wait=off")...)
	cmd.Dir, cmd.Stdout = dir, console
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	g.stranger = &stranger{cmd, make(chan struct{})}
	go func() {
		defer close(g.stranger.gone)
		_ = cmd.Wait() // it is killed, by a strike or by a handoff
	}()
	if err := g.alsoFollow(cmd.Process.Pid, console.Name()); err != nil {
		return nil, err
	}
	err = Eventually(ctx, "the stranger's monitor is there", Limit, func() error {
		_, err := os.Stat(monitor)
		return err
	})
	if err == nil {
		err = s.filled(ctx, g)
	}
	if err == nil {
		_, err = s.Client.StartVM(ctx, vmstate.VMSpec{Name: g.Name, Adopt: &vmstate.AdoptSpec{PID: cmd.Process.Pid, QMP: monitor}})
	}
	if err != nil {
		return nil, fmt.Errorf("cannot adopt %s: %w", g.Name, err)
	}
	return g, g.GoesOn(ctx)
}

// alsoFollow makes a process that is not recognized by its command line the guest's first QEMU.
func (w *Witness) alsoFollow(pid int, path string) error {
	stat, err := proc.ReadStat(pid)
	if err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	q := &QEMU{PID: pid, Start: stat.Start}
	w.qemus[pid], w.order, w.consoles = q, append(w.order, q), append(w.consoles, &console{file: f})
	return nil
}

// Private tells whether the guest's RAM is still private to the QEMU that a stranger has started.
func (g *Guest) Private() bool {
	living := g.Living()
	return g.stranger != nil && len(living) > 0 && living[0].PID == g.stranger.cmd.Process.Pid
}

// endStranger ends the stranger's QEMU, if there is one and it has not ended.
func (g *Guest) endStranger() error {
	if g.stranger == nil {
		return nil
	}
	if err := g.stranger.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-g.stranger.gone
	return nil
}
