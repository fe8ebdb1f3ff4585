package stage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"qlive/internal/failpoint"
	"qlive/internal/proc"
)

// process is one life of the daemon.
type process struct {
	cmd  *exec.Cmd
	log  string
	done chan struct{} // closed once it has ended
	err  error         // how, then
}

// StartDaemon starts the daemon with failpoints, none if points is empty, and waits until it is ready. It returns how long that took.
func (s *Stage) StartDaemon(ctx context.Context, points string) (time.Duration, error) {
	began := time.Now()
	if err := s.launch(points); err != nil {
		return 0, err
	}
	return s.awaitReady(ctx, began)
}

// launch starts the daemon.
func (s *Stage) launch(points string) error {
	if s.daemon != nil {
		return errors.New("cannot start the daemon: it runs")
	}
	s.bury()
	s.lives++
	p := &process{log: filepath.Join(s.Dir, fmt.Sprintf("daemon-%d.log", s.lives)), done: make(chan struct{})}
	log, err := os.Create(p.log)
	if err != nil {
		return err
	}
	defer log.Close()
	p.cmd = exec.Command(s.program, "daemon", "--config", s.config(), "--socket", s.socket(), "--mount", s.Mount,
		"--run-dir", filepath.Join(s.Dir, "run"), "--state-dir", filepath.Join(s.Dir, "state"))
	p.cmd.Stderr = log
	p.cmd.Dir = "/"
	p.cmd.Env = append(os.Environ(), failpoint.Variable+"="+points)
	if err := p.cmd.Start(); err != nil {
		return err
	}
	s.daemon = p
	go func() { p.err = p.cmd.Wait(); close(p.done) }()
	return nil
}

func (s *Stage) awaitReady(ctx context.Context, began time.Time) (time.Duration, error) {
	p := s.daemon
	err := Eventually(ctx, "the daemon is ready", Limit, func() error {
		if p.ended() {
			return fmt.Errorf("it has ended: %w", p.err)
		}
		return s.ready(ctx)
	})
	if err != nil {
		return 0, fmt.Errorf("%w\n%s", err, s.DaemonLog(20))
	}
	return time.Since(began), nil
}

// ready asks the daemon, which may be stopped at a failpoint and not answer.
func (s *Stage) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 20*lookEvery)
	defer cancel()
	return s.Client.Ready(ctx)
}

// KillAtStart starts the daemon and kills it at a failpoint of its recovery, and tells whether it came there; if not, the daemon goes on.
func (s *Stage) KillAtStart(ctx context.Context, point string) (bool, error) {
	began := time.Now()
	if err := s.launch(point + "=1*stop"); err != nil {
		return false, err
	}
	err := Eventually(ctx, "the daemon is ready, or stands at "+point, Limit, func() error {
		if s.daemon.stopped() || s.daemon.ended() {
			return nil
		}
		return s.ready(ctx)
	})
	switch {
	case err != nil:
		return false, fmt.Errorf("%w\n%s", err, s.DaemonLog(20))
	case s.daemon.stopped():
		return true, s.StopDaemon(unix.SIGKILL)
	}
	_, err = s.awaitReady(ctx, began)
	return false, err
}

// StopDaemon sends the daemon a signal that ends it, and sees it dead.
func (s *Stage) StopDaemon(sig unix.Signal) error {
	p := s.daemon
	if p == nil {
		return errors.New("cannot stop the daemon: there is none")
	}
	p.signal(sig)
	select {
	case <-p.done:
	case <-time.After(Limit):
		return fmt.Errorf("the daemon has not ended %s after %v\n%s", Limit, sig, s.DaemonLog(20))
	}
	s.daemon = nil
	s.Client.Close() // connections that its death has broken
	if sig == unix.SIGTERM && p.err != nil {
		return fmt.Errorf("told to end, the daemon said: %w\n%s", p.err, tail(p.log, 20))
	}
	return nil
}

// signal sends a signal. The process is this one's child and not waited for before done is closed, so that the number is its.
func (p *process) signal(sig unix.Signal) {
	if !p.ended() {
		_ = p.cmd.Process.Signal(sig) // it may end meanwhile, as is wanted
	}
}

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// stopped tells whether a failpoint has stopped the daemon.
func (p *process) stopped() bool {
	stat, err := proc.ReadStat(p.cmd.Process.Pid)
	return err == nil && stat.State == 'T'
}

// DaemonLog is the end of what the daemon has logged in this life, or in its last.
func (s *Stage) DaemonLog(lines int) string {
	return tail(filepath.Join(s.Dir, fmt.Sprintf("daemon-%d.log", s.lives)), lines)
}

// tail is the end of a text file.
func tail(path string, lines int) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	all := strings.SplitAfter(string(text), "\n")
	return filepath.Base(path) + ":\n" + strings.Join(all[max(0, len(all)-lines-1):], "")
}
