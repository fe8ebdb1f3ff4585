package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"qlive/integration/env"
	"qlive/internal/failpoint"
	"qlive/internal/proc"
	"qlive/restapi/client"
	"qlive/vmstate"
)

// Daemon is a lab whose daemon is a process of its own: one that can be killed, stopped and started again on the same run
// directory, while the guests run on. What the guests say is read from their console's files, whoever is dead meanwhile.
type Daemon struct {
	*Lab
	t       testing.TB
	Program string // what Start runs
	args    []string
	points  string
	log     string // file of the daemon's stderr
	prepare func(*exec.Cmd)

	cmd   *exec.Cmd // nil before the first start
	ended chan struct{}
	exit  error // of the process, once ended is closed
}

// DaemonOptions of such a lab.
type DaemonOptions struct {
	Program    string // a qlive binary; built anew if empty
	Failpoints string // as package failpoint writes them; see SetFailpoints
	NoTree     bool
	RunDir     string   // in the lab's own folder if empty
	Args       []string // more arguments of `qlive daemon`
	Config     string   // more lines of its configuration file
	// Prepare, if any, changes each command that starts the daemon, as a service manager would.
	Prepare func(*exec.Cmd)
}

// BuildProgram builds the qlive binary that says it is of version, in a folder of the test.
func BuildProgram(t testing.TB, version string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "qlive")
	if err := env.Build(t.Context(), path, version); err != nil {
		t.Fatal(err)
	}
	return path
}

// NewDaemon makes the lab and starts its daemon. Everything that it has started is ended when the test is over.
func NewDaemon(t testing.TB, opts DaemonOptions) *Daemon {
	t.Helper()
	l := newLab(t)
	l.runDir = opts.RunDir
	d := &Daemon{Lab: l, t: t, Program: opts.Program, points: opts.Failpoints, prepare: opts.Prepare, log: filepath.Join(l.Dir, "daemon.log")}
	if d.Program == "" {
		d.Program = BuildProgram(t, "test")
	}
	if opts.NoTree {
		l.Mount = "none"
	}
	config := filepath.Join(l.Dir, "qlive.yaml")
	// No cgroups: a daemon that has been killed leaves its own behind.
	text := fmt.Sprintf("allowed_binaries: [%q]\nlog_level: debug\ncgroup: none\n%s", l.Env.Cache+"/qemu/*/qemu-system-x86_64", opts.Config)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	d.args = append([]string{"daemon", "--config", config, "--socket", l.Socket, "--mount", l.Mount, "--run-dir", l.RunDir(),
		"--state-dir", filepath.Join(l.Dir, "state")}, opts.Args...)
	l.follow = l.followFiles
	l.Client = client.New(l.Socket)
	t.Cleanup(d.close)
	d.Start()
	return d
}

// SetFailpoints arms points in the daemons that are started from now on; "" disarms all.
func (d *Daemon) SetFailpoints(spec string) { d.points = spec }

// Start starts the daemon and waits until it is ready.
func (d *Daemon) Start() {
	d.t.Helper()
	d.Launch()
	d.AwaitReady()
}

// Launch starts the daemon and waits for nothing.
func (d *Daemon) Launch() {
	d.t.Helper()
	if d.Alive() {
		d.t.Fatal("the daemon runs already")
	}
	log, err := os.OpenFile(d.log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		d.t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(d.Program, d.args...)
	cmd.Stderr = log
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, failpoint.Variable+"=") || strings.HasPrefix(v, "NOTIFY_SOCKET=")
	})
	if d.points != "" {
		cmd.Env = append(cmd.Env, failpoint.Variable+"="+d.points)
	}
	if d.prepare != nil {
		d.prepare(cmd)
	}
	if err := cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	ended := make(chan struct{})
	d.cmd, d.ended = cmd, ended
	go func() {
		d.exit = cmd.Wait()
		close(ended)
	}()
}

// AwaitReady waits until the daemon answers that it is ready, and fails the test if it ends instead.
func (d *Daemon) AwaitReady() {
	d.t.Helper()
	d.Eventually("the daemon is ready", func() error {
		if !d.Alive() {
			d.t.Fatalf("the daemon has ended: %v", d.exit)
		}
		return d.Client.Ready(d.t.Context())
	})
}

// PID of the daemon's process.
func (d *Daemon) PID() int { return d.cmd.Process.Pid }

// Alive tells whether the daemon's process has not ended.
func (d *Daemon) Alive() bool {
	if d.cmd == nil {
		return false
	}
	select {
	case <-d.ended:
		return false
	default:
		return true
	}
}

// Signal sends sig to the daemon: SIGSTOP makes it hang, SIGCONT lets it go on. One that has ended is no error.
func (d *Daemon) Signal(sig unix.Signal) {
	d.t.Helper()
	if err := d.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		d.t.Fatalf("sending %v to the daemon: %v", sig, err)
	}
	if sig == unix.SIGSTOP { // its threads stop one by one, and those that run may still answer
		d.Eventually("the daemon has stopped", d.stands)
	}
}

// stands is an error while a thread of the daemon can run.
func (d *Daemon) stands() error {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", d.PID()))
	for _, path := range threads {
		text, _ := os.ReadFile(path)
		stat, bad := proc.ParseStat(string(text))
		if bad == nil && stat.State != 'T' && !stat.Ended() {
			return fmt.Errorf("the state of a thread is %c", stat.State)
		}
	}
	return err
}

// AwaitEnd waits until the daemon's process has ended, such as by a failpoint, and returns how.
func (d *Daemon) AwaitEnd() error {
	d.t.Helper()
	select {
	case <-d.ended:
		d.Client.Close() // connections to a dead daemon
		return d.exit
	case <-time.After(Limit):
		d.t.Fatalf("the daemon has not ended within %s", Limit)
		return nil
	}
}

// Kill kills the daemon and waits for its death.
func (d *Daemon) Kill() {
	d.t.Helper()
	d.Signal(unix.SIGKILL)
	_ = d.AwaitEnd() // by the signal
}

// Terminate asks the daemon to end as a service manager does, waits, and fails the test unless it ends well.
func (d *Daemon) Terminate() {
	d.t.Helper()
	d.Signal(unix.SIGTERM)
	if err := d.AwaitEnd(); err != nil {
		d.t.Errorf("the daemon ends with: %v", err)
	}
}

// Restart kills the daemon and starts it anew.
func (d *Daemon) Restart() {
	d.t.Helper()
	d.Kill()
	d.Start()
}

// Qlive runs the program as a command that talks to the daemon, and gives what it has printed on both outputs.
func (d *Daemon) Qlive(args ...string) (string, error) {
	cmd := exec.CommandContext(d.t.Context(), d.Program, args...)
	cmd.Env = append(os.Environ(), "QLIVE_SOCKET="+d.Socket)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// Log is what the daemons have said on their standard error.
func (d *Daemon) Log() string {
	text, _ := os.ReadFile(d.log) // there may be none
	return string(text)
}

// close ends everything that the lab has started, if need be without the daemon.
func (d *Daemon) close() {
	if d.Alive() {
		_ = d.cmd.Process.Signal(unix.SIGCONT) // a test may have stopped it
		d.removeAll()
		_ = d.cmd.Process.Signal(unix.SIGTERM)
		select {
		case <-d.ended:
		case <-time.After(Limit):
			d.t.Errorf("the daemon has not ended %s after SIGTERM", Limit)
			_ = d.cmd.Process.Kill()
			<-d.ended
		}
	}
	d.Client.Close()
	for _, pid := range d.QEMUs(d.t) { // of a daemon that has been killed, or that has lost sight of them
		_ = unix.Kill(pid, unix.SIGKILL)
	}
	if d.t.Failed() {
		d.t.Logf("the daemon says:\n%s", d.Log())
		d.showLogs()
	}
	if d.Mount != "none" {
		_ = unix.Unmount(d.Mount, unix.MNT_DETACH) // of a daemon that has been killed
	}
	if err := os.RemoveAll(d.Dir); err != nil {
		d.t.Errorf("removing the lab: %v", err)
	}
}

// Undecided waits until a VM stands as failed and returns it.
func (d *Daemon) Undecided(name string) (vm vmstate.VM) {
	d.t.Helper()
	d.Eventually(name+" is failed", func() (err error) {
		vm, err = d.Client.VM(context.WithoutCancel(d.t.Context()), name)
		if err == nil && vm.Status != vmstate.Broken {
			err = fmt.Errorf("it is %s", vm.Status)
		}
		return err
	})
	return vm
}
