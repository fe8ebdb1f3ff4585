package stage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"qlive/integration/env"
	"qlive/integration/guest"
	"qlive/internal/proc"
	"qlive/restapi/client"
	"qlive/vmstate"
)

// Limit bounds every wait, generously: machines are shared.
const Limit = 60 * time.Second

// Stage is a qlive whose parts may die. Make one with [Open]; one goroutine uses it.
type Stage struct {
	Env    env.Env
	Dir    string // of everything that is made
	Mount  string // of the tree
	Client *client.Client

	initrd  string
	program string
	logf    func(string, ...any)
	daemon  *process // nil while there is none
	lives   int      // of the daemon
	guests  int      // started so far
	open    map[string]*Guest
}

// Open builds the program and makes the folders. What is worth telling goes to logf.
func Open(ctx context.Context, logf func(string, ...any)) (*Stage, error) {
	e, err := env.Locate()
	if err != nil {
		return nil, err
	}
	initrd, err := guest.Build(ctx, e.Cache)
	if err != nil {
		return nil, err
	}
	// QEMUs that outlive their daemon become children of this process, as they become the service manager's, and are buried by it.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("cannot take in orphans: %w", err)
	}
	dir, err := os.MkdirTemp("", "qlive-kills-") // below root's folders, as the daemon wants its binaries and folders to be
	if err != nil {
		return nil, err
	}
	s := &Stage{
		Env: e, Dir: dir, Mount: filepath.Join(dir, "mnt"), initrd: initrd, program: filepath.Join(dir, "qlive"), logf: logf, open: make(map[string]*Guest),
	}
	s.Client = client.New(s.socket())
	config := fmt.Sprintf("allowed_binaries: [%q]\nlog_level: debug\ncgroup: none\n", e.Cache+"/qemu/*/qemu-system-x86_64")
	if err := os.WriteFile(s.config(), []byte(config), 0o600); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	if err := env.Build(ctx, s.program, "test"); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return s, nil
}

func (s *Stage) socket() string { return filepath.Join(s.Dir, "sock") }

func (s *Stage) config() string { return filepath.Join(s.Dir, "qlive.yaml") }

// vms is the folder of the VMs in the run directory.
func (s *Stage) vms() string { return filepath.Join(s.Dir, "run", "vms") }

// orphans ends what daemons have started and nobody knows of any more, which should be nothing.
func (s *Stage) orphans() error {
	var errs []error
	children, _ := proc.Children(os.Getpid()) // /proc is always there
	for _, stat := range children {
		line, err := proc.ReadCmdline(stat.PID)
		if err != nil || stat.Ended() || !bytes.Contains(line, []byte("qemu-system")) {
			continue
		}
		q := QEMU{PID: stat.PID, Start: stat.Start}
		errs = append(errs, fmt.Errorf("an orphan was left: %d, %.200q", stat.PID, bytes.ReplaceAll(line, []byte{0}, []byte{' '})), q.signal(unix.SIGKILL))
	}
	return errors.Join(errs...)
}

// bury waits for the children of dead daemons that have ended too. It is done while there is no daemon: that one is waited for elsewhere.
func (s *Stage) bury() {
	children, _ := proc.Children(os.Getpid()) // /proc is always there
	for _, stat := range children {
		if stat.Ended() {
			_, _ = unix.Wait4(stat.PID, nil, unix.WNOHANG, nil) // one that still has threads is buried the next time
		}
	}
}

// forget moves away what daemons have left.
func (s *Stage) forget() error {
	for _, dir := range []string{"run", "state"} {
		old := filepath.Join(s.Dir, fmt.Sprintf("%s-%d", dir, s.lives))
		if err := os.Rename(filepath.Join(s.Dir, dir), old); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// Close ends all that is left, by the identities that were seen, and removes the folder unless it is to be kept.
func (s *Stage) Close(keep bool) error {
	var errs []error
	for _, g := range s.open {
		errs = append(errs, s.drop(g))
	}
	if s.daemon != nil {
		s.daemon.signal(unix.SIGCONT)
		if err := s.StopDaemon(unix.SIGTERM); err != nil {
			errs = append(errs, err, s.StopDaemon(unix.SIGKILL))
		}
	}
	s.Client.Close()
	errs = append(errs, s.orphans())
	if err := unix.Unmount(s.Mount, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		errs = append(errs, fmt.Errorf("cannot unmount the tree: %w", err))
	}
	if keep {
		s.logf("kept: %s", s.Dir)
		return errors.Join(errs...)
	}
	return errors.Join(append(errs, os.RemoveAll(s.Dir))...)
}

// Eventually waits until f returns nil; the error is what it said last.
func Eventually(ctx context.Context, what string, limit time.Duration, f func() error) error {
	deadline := time.Now().Add(limit)
	for pause := 2 * time.Millisecond; ; pause = min(pause*3/2, 3*lookEvery) {
		err := f()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("waited %s until %s: %w", limit, what, err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("until %s: %w", what, context.Cause(ctx))
		case <-time.After(pause):
		}
	}
}

// refused tells whether the daemon has answered, and with a no.
func refused(err error) bool {
	return err != nil && vmstate.KindOf(err) != vmstate.Unavailable && !errors.Is(err, context.DeadlineExceeded)
}
