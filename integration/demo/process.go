package demo

import (
	"context"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"

	"qlive/vmstate"
)

// process is the daemon.
type process struct {
	cmd    *exec.Cmd
	log    string
	done   chan struct{} // closed once it has ended
	ending chan struct{} // closed once it is to end
}

// startDaemon starts it. If it ends before it is told to, over says why.
func startDaemon(p *place, over context.CancelCauseFunc) (*process, error) {
	log, err := os.OpenFile(p.log(), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, cannotMake(err)
	}
	defer log.Close()
	d := &process{cmd: exec.Command(p.file("bin/qlive"), "daemon", "--config", p.config()), log: p.log(), done: make(chan struct{}), ending: make(chan struct{})}
	d.cmd.Dir, d.cmd.Env, d.cmd.Stdout, d.cmd.Stderr = p.dir, p.environ(), log, log
	d.cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true} // the terminal's Ctrl-C is for the demonstration
	if err := d.cmd.Start(); err != nil {
		return nil, vmstate.Errorf(vmstate.Host, "cannot start the daemon: %w", err)
	}
	go func() {
		err := d.cmd.Wait()
		close(d.done)
		select {
		case <-d.ending:
		default:
			over(d.failed(err))
		}
	}()
	return d, nil
}

// failed says why the daemon has ended, in its own words.
func (d *process) failed(err error) error {
	e := vmstate.Errorf(vmstate.Unavailable, "cannot go on without the daemon, which has ended: %v", err)
	text, _ := os.ReadFile(d.log) // without it there are no words
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if remedy, ok := strings.CutPrefix(line, "→ "); ok {
			e.Remedy = remedy
		} else if why, ok := strings.CutPrefix(line, "qlive: "); ok {
			e.Detail = "cannot run the daemon: " + why
		}
	}
	return e
}

func (d *process) pid() int { return d.cmd.Process.Pid }

// end asks the daemon to end and waits, for as long as ctx allows. It finishes or undoes what is in flight first.
func (d *process) end(ctx context.Context) error {
	close(d.ending)
	_ = d.cmd.Process.Signal(unix.SIGTERM) // it may be gone already
	select {
	case <-d.done:
		return nil
	case <-ctx.Done():
	}
	_ = d.cmd.Process.Kill()
	<-d.done
	return vmstate.Errorf(vmstate.Timeout, "cannot see the daemon end: it was killed")
}
