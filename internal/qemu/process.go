package qemu

import (
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"qlive/internal/proc"
	"qlive/vmstate"
)

// Command says what to run.
type Command struct {
	Binary string   // absolute path
	Args   []string // what follows the binary's name
	Dir    string   // working directory; this process' own if empty
	Env    []string // nil: this process' own without what belongs to a daemon
	// Files are the descriptors 3, 4, … of the process. They stay the caller's.
	Files []*os.File
	// Log is a file for stdout and stderr, made if it does not exist and else appended to.
	Log string
}

// Identity names a process for good; a number alone is used again.
type Identity struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // hundredths of a second since the host's boot
}

// Exit is how a process ended.
type Exit struct {
	Known  bool // false for a process that is not our child: nobody tells us
	Code   int  // exit status, if Signal is 0
	Signal syscall.Signal
}

// String says it in words.
func (e Exit) String() string {
	switch {
	case !e.Known:
		return "has ended"
	case e.Signal != 0:
		return fmt.Sprintf("was killed by signal %d (%v)", int(e.Signal), e.Signal)
	default:
		return fmt.Sprintf("ended with status %d", e.Code)
	}
}

// Process is a running, or ended, QEMU. What it has started and left behind in its session ends with it, if it is a child of this
// process. All methods may be called at any time, from any goroutine.
type Process struct {
	id   Identity
	log  string
	cmd  *exec.Cmd // nil if it is not our child
	pfd  *os.File
	done chan struct{} // closed once the process has ended and exit is set
	gone chan struct{} // closed when the watching goroutine has ended

	mu       sync.Mutex
	exit     Exit
	released bool
}

// Start runs c. The process leads a session of its own and outlives this one. Errors are of Kind Host, or QEMU if the
// file cannot be executed.
func Start(c Command) (*Process, error) {
	log, err := os.OpenFile(c.Log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, vmstate.Errorf(vmstate.Host, "cannot open QEMU's log %s: %w", c.Log, cause(err))
	}
	defer log.Close()
	p, err := start(c, log)
	if err != nil {
		return nil, err
	}
	p.log = c.Log
	return p, nil
}

func start(c Command, log *os.File) (*Process, error) {
	if err := keepOurs(); err != nil {
		return nil, vmstate.Errorf(vmstate.Host, "cannot keep descriptors from %s: %w", c.Binary, err)
	}
	pidfd := -1
	cmd := &exec.Cmd{
		Path: c.Binary, Args: append([]string{c.Binary}, c.Args...), Dir: c.Dir, Env: c.Env, ExtraFiles: c.Files,
		Stdout: log, Stderr: log,
		SysProcAttr: &syscall.SysProcAttr{Setsid: true, PidFD: &pidfd},
	}
	if cmd.Env == nil {
		cmd.Env = environment(os.Environ())
	}
	if err := cmd.Start(); err != nil {
		return nil, startError(c, err)
	}
	p, err := hold(cmd, pidfd)
	if err != nil {
		// Our own child, not waited for yet: the number is still its.
		err = errors.Join(err, cmd.Process.Kill(), ignoreExit(cmd.Wait()))
		return nil, vmstate.Errorf(vmstate.Host, "cannot watch the process of %s: %w", c.Binary, err)
	}
	return p, nil
}

// keepOurs keeps descriptors that this process itself has inherited, from a shell or a service manager, out of the processes
// that it starts: they could be one end of anything. What Go opens is kept out anyhow.
func keepOurs() error {
	err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC)
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EINVAL) {
		return nil // before Linux 5.11
	}
	return err
}

// hold makes a Process of a child that has just been started.
func hold(cmd *exec.Cmd, pidfd int) (*Process, error) {
	if pidfd < 0 {
		return nil, errors.New("the kernel gives no pidfd; Linux 5.4 or later is needed")
	}
	stat, err := proc.ReadStat(cmd.Process.Pid)
	if err != nil {
		return nil, errors.Join(err, unix.Close(pidfd))
	}
	return watch(Identity{PID: cmd.Process.Pid, Start: stat.Start}, cmd, pidfd)
}

// ignoreExit takes away the error that only tells how a process ended.
func ignoreExit(err error) error {
	if _, ok := errors.AsType[*exec.ExitError](err); ok {
		return nil
	}
	return err
}

// startError tells a binary that cannot run from a host that refuses.
func startError(c Command, err error) error {
	why := cause(err)
	switch {
	case c.Dir != "" && !isDir(c.Dir):
		return vmstate.Errorf(vmstate.Invalid, "cannot run %s in %s: there is no such folder", c.Binary, c.Dir).With("name a folder that exists")
	case errors.Is(err, unix.ENOENT):
		return vmstate.Errorf(vmstate.NotFound, "cannot run %s: the file or its interpreter does not exist", c.Binary).With("name a QEMU that is installed")
	case errors.Is(err, unix.ENOEXEC), errors.Is(err, unix.EACCES), errors.Is(err, unix.EISDIR):
		return vmstate.Errorf(vmstate.QEMU, "cannot run %s: %w", c.Binary, why).With("name a QEMU binary")
	case errors.Is(err, unix.E2BIG):
		return vmstate.Errorf(vmstate.Invalid, "cannot run %s: %w", c.Binary, why).With("use fewer arguments")
	}
	return vmstate.Errorf(vmstate.Host, "cannot run %s: %w", c.Binary, why)
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// environment is env without the variables by which systemd speaks to this process alone.
func environment(env []string) []string {
	kept := make([]string, 0, len(env))
	for _, v := range env {
		name, _, _ := strings.Cut(v, "=")
		switch name {
		case "NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "INVOCATION_ID",
			"JOURNAL_STREAM", "FDSTORE", "MANAGERPID", "SYSTEMD_EXEC_PID":
			continue
		}
		if !strings.HasPrefix(name, "QLIVE_") {
			kept = append(kept, v)
		}
	}
	return kept
}

// Attach takes hold of a process that runs already; log is the file of its output, or empty. If it is gone, or another process has
// its number now, the error is of Kind Lost.
func Attach(id Identity, log string) (*Process, error) {
	lost := func(why string) error {
		return vmstate.Errorf(vmstate.Lost, "cannot find the process %d: %s", id.PID, why)
	}
	fd, err := unix.PidfdOpen(id.PID, 0)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) {
		return nil, lost("it has ended")
	}
	if err != nil {
		return nil, vmstate.Errorf(vmstate.Host, "cannot hold the process %d: %w", id.PID, err)
	}
	// Whoever had the number when the pidfd was made has it until we ask: compare now.
	stat, err := proc.ReadStat(id.PID)
	if err != nil || stat.Start != id.Start || stat.Ended() {
		_ = unix.Close(fd) // nothing was written to it
		if err == nil && stat.Start != id.Start {
			return nil, lost("another one has its number")
		}
		return nil, lost("it has ended")
	}
	p, err := watch(id, nil, fd)
	if err != nil {
		return nil, vmstate.Errorf(vmstate.Host, "cannot watch the process %d: %w", id.PID, err)
	}
	p.log = log
	return p, nil
}

// watch takes over the pidfd and starts to wait for the end of its process.
func watch(id Identity, cmd *exec.Cmd, pidfd int) (*Process, error) {
	// Without O_NONBLOCK the runtime would not wait for it with its poller, and Release could not end the wait.
	if err := unix.SetNonblock(pidfd, true); err != nil {
		return nil, errors.Join(err, unix.Close(pidfd))
	}
	p := &Process{id: id, cmd: cmd, pfd: os.NewFile(uintptr(pidfd), "pidfd"), done: make(chan struct{}), gone: make(chan struct{})}
	raw, err := p.pfd.SyscallConn()
	if err != nil {
		return nil, errors.Join(err, p.pfd.Close())
	}
	go p.wait(raw)
	return p, nil
}

// wait sees the process end; it alone reaps it.
func (p *Process) wait(raw syscall.RawConn) {
	defer close(p.gone)
	if err := raw.Read(func(fd uintptr) bool { return ended(int(fd)) }); err != nil {
		return // released
	}
	var e Exit
	if p.cmd != nil {
		// What it has started and left behind holds guest RAM and goes with it: its session is its own, and until it is buried, on
		// the next line, nobody else can have its number.
		_ = unix.Kill(-p.id.PID, unix.SIGKILL)
		// The error repeats the status that is read below.
		_ = p.cmd.Wait()
		if ws, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus); ok {
			e = Exit{Known: true, Code: ws.ExitStatus()}
			if ws.Signaled() {
				e = Exit{Known: true, Signal: ws.Signal()}
			}
		}
	}
	p.mu.Lock()
	p.exit = e
	p.mu.Unlock()
	close(p.done)
}

// ended asks without waiting whether the process behind a pidfd has ended.
func ended(fd int) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n > 0
}

// ID names the process.
func (p *Process) ID() Identity { return p.id }

// PID is its number, for reading /proc and for showing; never to be signalled.
func (p *Process) PID() int { return p.id.PID }

// Log is the path of the file that its output goes to, empty if it is not known.
func (p *Process) Log() string { return p.log }

// Done is closed once the process has ended; from then on its memory and its descriptors are released.
func (p *Process) Done() <-chan struct{} { return p.done }

// Exited tells how the process ended, and whether it has.
func (p *Process) Exited() (Exit, bool) {
	select {
	case <-p.done:
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.exit, true
	default:
		return Exit{}, false
	}
}

// Kill ends the process at once; it does not wait for its end. One that has ended already is no error.
func (p *Process) Kill() error { return p.Signal(unix.SIGKILL) }

// Signal sends sig. A process that has ended is no error.
func (p *Process) Signal(sig unix.Signal) error {
	raw, err := p.pfd.SyscallConn()
	if err == nil {
		var sent error
		err = errors.Join(raw.Control(func(fd uintptr) { sent = unix.PidfdSendSignal(int(fd), sig, nil, 0) }), sent)
	}
	if _, over := p.Exited(); over || errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return vmstate.Errorf(vmstate.Host, "cannot send signal %d to the process %d: %w", int(sig), p.id.PID, err)
	}
	return nil
}

// Release lets go of the process without ending it, and waits for the goroutine that watches it. Done is not closed by it. After it
// the process cannot be signalled any more. It may be called twice.
func (p *Process) Release() error {
	p.mu.Lock()
	again := p.released
	p.released = true
	p.mu.Unlock()
	var err error
	if !again {
		err = p.pfd.Close()
	}
	<-p.gone
	return err
}

// Tail is the last lines of the process' output, at most n of them.
func (p *Process) Tail(n int) []string {
	f, err := os.Open(p.log)
	if err != nil {
		return nil // there is nothing to quote
	}
	defer f.Close()
	return tail(f, n)
}

// tail reads the last n lines of f that are not empty, from its last 64 KiB.
func tail(f *os.File, n int) []string {
	const most = 64 << 10
	info, err := f.Stat()
	if err != nil {
		return nil
	}
	from := max(0, info.Size()-most)
	buf := make([]byte, info.Size()-from)
	got, _ := f.ReadAt(buf, from) // what can be read is quoted
	var lines []string
	for line := range strings.Lines(strings.ToValidUTF8(string(buf[:got]), "�")) {
		if line = strings.TrimRight(line, "\r\n"); strings.TrimSpace(line) != "" {
			lines = append(lines, line)
		}
	}
	return lines[max(0, len(lines)-n):]
}

// Words is how many lines of QEMU's output an error quotes.
const Words = 10

// Ended describes the end of the process as the reason why something could not be done, with its last words. It is of Kind QEMU.
func (p *Process) Ended(what string) *vmstate.Error {
	exit, _ := p.Exited()
	e := vmstate.Errorf(vmstate.QEMU, "cannot %s: QEMU (process %d) %s", what, p.id.PID, exit)
	e.Words = p.Tail(Words)
	return e
}
