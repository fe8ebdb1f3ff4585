package qemu

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"qlive/internal/proc"
	"qlive/internal/qemu/cmdline"
	"qlive/vmstate"
)

// Identity names a process for good; a number alone is used again.
type Identity struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // hundredths of a second since the host's boot
}

// Exit is how a process ended.
type Exit struct {
	Known  bool // false for a process that is not our child, before Linux 6.15: nobody tells us
	Code   int  // exit status, if Signal is 0
	Signal syscall.Signal
}

// String says it in words.
func (e Exit) String() string {
	switch {
	case !e.Known:
		return "has ended, and how was told to nobody: the daemon that had started it was gone"
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
	ours *os.Process // nil if it is not our child
	pfd  *os.File
	done chan struct{} // closed once the process has ended and exit is set
	gone chan struct{} // closed when the watching goroutine has ended

	mu       sync.Mutex
	exit     Exit
	released bool
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

// Descriptor is a copy of one of its descriptors (pidfd_getfd(2)). The caller closes it. The error is of Kind Host.
func (p *Process) Descriptor(number int) (*os.File, error) {
	raw, err := p.pfd.SyscallConn()
	theirs := -1
	if err == nil {
		err = raw.Control(func(pidfd uintptr) { theirs, err = unix.PidfdGetfd(int(pidfd), number, 0) })
	}
	if err == nil && theirs < 0 {
		err = unix.EBADF
	}
	if err != nil {
		return nil, vmstate.Errorf(vmstate.Host, "cannot copy descriptor %d of process %d: %w", number, p.PID(), err)
	}
	return os.NewFile(uintptr(theirs), fmt.Sprintf("descriptor %d of process %d", number, p.PID())), nil
}

// watch takes over the pidfd and starts to wait for the end of its process.
func watch(id Identity, ours *os.Process, pidfd int) (*Process, error) {
	// Without O_NONBLOCK the runtime would not wait for it with its poller, and Release could not end the wait.
	if err := unix.SetNonblock(pidfd, true); err != nil {
		return nil, errors.Join(err, unix.Close(pidfd))
	}
	p := &Process{id: id, ours: ours, pfd: os.NewFile(uintptr(pidfd), "pidfd"), done: make(chan struct{}), gone: make(chan struct{})}
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
	if p.ours != nil {
		// What it has started and left behind holds guest RAM and goes with it: its session is its own, and until it is buried, on
		// the next line, nobody else can have its number.
		_ = unix.Kill(-p.id.PID, unix.SIGKILL)
		if state, err := p.ours.Wait(); err == nil {
			if ws, ok := state.Sys().(syscall.WaitStatus); ok {
				e = exitOf(ws)
			}
		}
	} else {
		e = exitOfAnother(raw)
	}
	p.mu.Lock()
	p.exit = e
	p.mu.Unlock()
	close(p.done)
}

// exitOf reads how a process has ended.
func exitOf(ws syscall.WaitStatus) Exit {
	if ws.Signaled() {
		return Exit{Known: true, Signal: ws.Signal()}
	}
	return Exit{Known: true, Code: ws.ExitStatus()}
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

// over asks the kernel whether the process has ended, of which Done may not tell yet. A released one counts as ended.
func (p *Process) over() bool {
	over := true
	if raw, err := p.pfd.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { over = ended(int(fd)) }) // it fails after Release
	}
	return over
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

// SetOOMScoreAdj tells the kernel how willingly to kill the process when memory runs out: 1000 is first of all, -1000 never
// (proc_pid_oom_score_adj(5)). One that has ended is no error.
func (p *Process) SetOOMScoreAdj(score int) error {
	f, err := os.OpenFile(fmt.Sprintf("/proc/%d/oom_score_adj", p.id.PID), os.O_WRONLY, 0)
	if err == nil {
		// What was opened belongs to whoever had the number then: to ours, if that has not ended by now.
		if !p.over() {
			_, err = f.WriteString(strconv.Itoa(score))
		}
		err = errors.Join(err, f.Close())
	}
	if err == nil || p.over() {
		return nil
	}
	return vmstate.Errorf(vmstate.Host, "cannot set oom_score_adj of the process %d to %d: %w", p.id.PID, score, cause(err))
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

// BrokeOff tells of a QEMU that has ended, and whose end nobody has seen, whether it was killed or has crashed: one that ends by itself removes its
// socket.
func BrokeOff(line *cmdline.Line) bool {
	_, err := os.Lstat(line.Monitor)
	return err == nil
}

// cause is err without the path that a message names already.
func cause(err error) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return e.Err
	}
	return err
}
