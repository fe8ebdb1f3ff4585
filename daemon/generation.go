package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"qlive/flip"
	"qlive/flip/memory"
	"qlive/internal/qemu"
	"qlive/internal/qemu/cmdline"
	"qlive/internal/qmp"
	"qlive/vmstate"
)

// generation is one QEMU of a VM, and the folder that everything it makes lies in.
type generation struct {
	number int
	dir    string
	line   *cmdline.Line
	binary *qemu.Binary
	info   *qemu.Info
	side   *flip.Side
	words  *transcript
	life   life
	// foreign: qlive did not start it.
	foreign bool
	// followed, with the machine's mu: somebody listens to its events until it ends.
	followed bool
}

// plan is what a generation is started from.
type plan struct {
	binary *qemu.Binary
	info   *qemu.Info
	line   *cmdline.Line
	dir    string
	number int
	score  int // oom_score_adj that it starts with
}

// planGeneration finds out what the binary is and writes the command line for it; nothing is started. The mode is that of the handoff that it is to
// be the target of; without one it begins with the guest.
//
// Promised: the RAM's huge pages are promised as it is filled.
func (m *machine) planGeneration(ctx context.Context, binary *qemu.Binary, facts cmdline.Facts, number int, mode vmstate.Mode, promised bool) (*plan, error) {
	incoming := mode != ""
	info, err := m.d.prober.Probe(ctx, binary)
	if err != nil {
		return nil, err
	}
	if incoming {
		if _, ok := info.Machine(m.facts.Machine.Name); !ok {
			return nil, vmstate.Errorf(vmstate.Incompatible, "cannot hand %s over to %s: QEMU %s has no machine type %s",
				m.spec.Name, binary.Path, info.Version, m.facts.Machine.Name).
				With("choose a QEMU that still has it; QEMU removes machine types six years after their release")
		}
		if !info.Can(qmp.CapIgnoreShared) {
			return nil, vmstate.Errorf(vmstate.Incompatible, "cannot hand %s over to %s: QEMU %s cannot leave shared memory out of a migration (x-ignore-shared)",
				m.spec.Name, binary.Path, info.Version).With("choose QEMU 5.0 or later")
		}
	}
	p := &plan{binary: binary, info: info, number: number, dir: m.d.cfg.generationDir(m.spec.Name, number), score: m.place.score}
	if incoming {
		p.score = waitingScore
	}
	p.line, err = cmdline.Rewrite(m.spec.Args, facts, cmdline.Placement{
		Dir: p.dir, Incoming: incoming, Given: mode == vmstate.ModeCPR, Promised: promised, Version: info.Version, ProcessName: qemu.ProcessName(binary.Path),
		Vhost: m.place.user != nil,
	})
	return p, err
}

// startGeneration runs a planned QEMU on RAM, amid what it shall have around it, and meets its monitor. What is returned next to an error has been started and must be ended with
// discard.
func (m *machine) startGeneration(ctx context.Context, p *plan, ram *memory.Set, amid around) (*generation, error) {
	if err := os.RemoveAll(p.dir); err != nil { // left by a generation that came to nothing
		return nil, vmstate.Errorf(vmstate.Host, "cannot clear %s: %w", p.dir, err)
	}
	if err := qemu.MakePlaces(p.dir, p.line, m.place.user); err != nil {
		return nil, errors.Join(err, os.RemoveAll(p.dir))
	}
	written := p.written()
	written.Headers = amid.headers
	if err := m.writeGeneration(written); err != nil {
		return nil, errors.Join(err, os.RemoveAll(p.dir))
	}
	g := &generation{number: p.number, dir: p.dir, line: p.line, binary: p.binary, info: p.info}
	process, err := qemu.Start(qemu.Command{
		Binary: p.binary, Args: p.line.Argv(), Dir: m.spec.Dir, Files: append(ram.Files(), amid.files...), Log: g.log(),
		User: m.place.user, Cgroup: m.place.folder(), OOMScoreAdj: p.score, Env: amid.env, Schedule: amid.schedule,
	})
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(p.dir))
	}
	g.side = &flip.Side{Process: process, Binary: p.binary.Path, Version: p.info.Version.String(), Dir: p.dir}
	written.Process = process.ID()
	if err := m.writeGeneration(written); err != nil {
		return g, err
	}
	return g, g.meet(ctx, m.d.answerTime, m.observers(p.number)...)
}

// transcriptName is the file in a generation's folder that its monitor is written down in.
const transcriptName = "qmp.log"

// transcript is a QEMU's monitor, written down.
type transcript struct {
	*qmp.Transcript
	file *os.File
}

func newTranscript(path string) (*transcript, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, vmstate.Errorf(vmstate.Host, "cannot keep the monitor's transcript: %w", err)
	}
	return &transcript{qmp.NewTranscript(f), f}, nil
}

func (t *transcript) close() error { return errors.Join(t.Close(), t.file.Close()) }

// meet connects to the monitor, which must answer within the limit.
func (g *generation) meet(ctx context.Context, limit time.Duration, observers ...qmp.Observer) error {
	words, err := newTranscript(filepath.Join(g.dir, transcriptName))
	if err != nil {
		return err
	}
	g.words = words
	ctx, cancel := context.WithTimeoutCause(ctx, limit,
		vmstate.Errorf(vmstate.Timeout, "cannot reach the monitor of %s within %s", g.binary.Path, limit).
			With("see QEMU's log; does the binary pass QEMU's arguments on?"))
	defer cancel()
	monitor, err := qmp.Dial(ctx, g.line.Monitor, qmp.Options{Exited: g.side.Gone(), Observers: append(observers, &g.life, words)})
	switch {
	case err != nil && g.side.EndedSoon(): // whatever it was that broke off
		e := g.side.Process.Ended("start " + g.binary.Path)
		e.Remedy = "see what QEMU says: this binary cannot make the guest's machine"
		return e
	case err != nil && context.Cause(ctx) != nil:
		return context.Cause(ctx)
	case err != nil:
		return vmstate.Errorf(vmstate.QEMU, "cannot talk to %s: %w", g.binary.Path, err).With("see QEMU's log; is the binary a QEMU?")
	}
	g.side.Monitor = monitor
	if pid, err := monitor.PeerPID(); err != nil {
		return err
	} else if pid != g.side.Process.PID() {
		return vmstate.Errorf(vmstate.Incompatible, "cannot use %s: its QEMU is process %d, a child of process %d that was started", g.binary.Path, pid, g.side.Process.PID()).
			With("a wrapper script must become QEMU: write `exec` before its last command")
	}
	v := monitor.Version()
	g.side.Version = fmt.Sprintf("%d.%d.%d", v.Major, v.Minor, v.Micro)
	return nil
}

func (g *generation) log() string { return filepath.Join(g.dir, "qemu.log") }

// console is the file that holds what the guest has written on its console in this QEMU; empty if it has no console.
func (g *generation) console() string {
	if len(g.line.Consoles) == 0 {
		return ""
	}
	return g.line.Consoles[0].Log
}

// hangUp lets go of the QEMU without ending it.
func (g *generation) hangUp() {
	if g.side.Monitor != nil {
		g.side.Monitor.Close()
	}
	if g.words != nil {
		_ = g.words.close() // what it could not write is missing in a log
	}
}

// discard ends a QEMU that never had the guest, and removes its folder.
func (g *generation) discard() error {
	err := g.side.Process.Kill()
	<-g.side.Gone()
	g.hangUp()
	return errors.Join(err, g.side.Process.Release(), os.RemoveAll(g.dir))
}

// dead tells whether the process has ended; no generation is a dead one.
func (g *generation) dead() bool {
	if g == nil {
		return true
	}
	_, over := g.side.Process.Exited()
	return over
}

// wants are the files that the guest's RAM needs.
func wants(line *cmdline.Line) []memory.Want {
	list := make([]memory.Want, len(line.Regions))
	for i, r := range line.Regions {
		list[i] = memory.Want{Name: r.Block, SizeBytes: r.SizeBytes, PageBytes: r.PageBytes, Populate: r.Prealloc}
		if r.Huge && r.PageBytes == 0 {
			list[i].PageBytes = defaultHugePage
		}
	}
	return list
}
