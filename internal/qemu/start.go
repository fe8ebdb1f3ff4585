package qemu

import (
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"qlive/internal/proc"
	"qlive/vmstate"
)

// Command says what to run.
type Command struct {
	Binary *Binary  // what was admitted; it is admitted once more as it starts
	Args   []string // what follows the binary's name
	Dir    string   // working directory; this process' own if empty
	Env    []string // nil: this process' own without what belongs to a daemon
	// Schedule is what its first thread begins with, and so every other; nil for this process' own.
	Schedule *Schedule
	// Files are the descriptors 3, 4, … of the process. They stay the caller's.
	Files []*os.File
	// Log is a file for stdout and stderr, made if it does not exist and else appended to.
	Log string
	// User is whom the process runs as; nil for whom this one runs as.
	User *User
	// Cgroup is the folder of the cgroup (v2) that the process is born in; nil for this process' own.
	Cgroup *os.File
	// OOMScoreAdj is what the process begins with, whatever this one has (proc_pid_oom_score_adj(5)).
	OOMScoreAdj int
	// Brief is for a process that must not outlive this one: the kernel kills it (PR_SET_PDEATHSIG, which holds through a wrapper that becomes
	// QEMU). It is the end of the thread that started it that counts; Go ends none that is not locked to a goroutine. Not with a Schedule.
	Brief bool
}

// Start runs c. The process leads a session of its own and outlives this one. Errors are those of [Admit]; of Kind Host, or Exhausted if
// there may not be one process more; or QEMU if the file cannot be executed.
func Start(c Command) (*Process, error) {
	return logged(c, func(log *os.File) (*Process, error) { return start(c, log) })
}

// StartSelf is [Start] for this very program, whatever has become of its file. c.Binary is not looked at.
func StartSelf(c Command) (*Process, error) {
	c.Binary = &Binary{Path: os.Args[0]}
	program, err := os.OpenFile("/proc/self/exe", unix.O_PATH, 0)
	if err != nil {
		return nil, vmstate.Errorf(vmstate.Host, "cannot run %s once more: %w", c.Binary.Path, cause(err))
	}
	defer program.Close()
	return logged(c, func(log *os.File) (*Process, error) { return launch(c, program, log) })
}

// logged opens c's log for whoever starts it.
func logged(c Command, start func(log *os.File) (*Process, error)) (*Process, error) {
	log, err := os.OpenFile(c.Log, os.O_WRONLY|os.O_CREATE|os.O_APPEND|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, vmstate.Errorf(vmstate.Host, "cannot open QEMU's log %s: %w", c.Log, cause(err))
	}
	defer log.Close()
	p, err := start(log)
	if err != nil {
		return nil, err
	}
	p.log = c.Log
	return p, nil
}

func start(c Command, log *os.File) (*Process, error) {
	program, err := c.Binary.open()
	if err != nil {
		return nil, err
	}
	defer program.Close()
	return launch(c, program, log)
}

// launch runs a program that was opened before.
func launch(c Command, program, log *os.File) (*Process, error) {
	if err := keepOurs(); err != nil {
		return nil, vmstate.Errorf(vmstate.Host, "cannot keep descriptors from %s: %w", c.Binary.Path, err)
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, vmstate.Errorf(vmstate.Host, "cannot run %s: %w", c.Binary.Path, err)
	}
	defer null.Close()
	pidfd := -1
	attr := &os.ProcAttr{
		Dir: c.Dir, Env: c.environment(), Files: append([]*os.File{null, log, log}, c.Files...),
		Sys: &syscall.SysProcAttr{Setsid: true, PidFD: &pidfd, Credential: c.User.credential()},
	}
	if c.Brief {
		attr.Sys.Pdeathsig = syscall.SIGKILL
	}
	if c.Cgroup != nil {
		attr.Sys.UseCgroupFD, attr.Sys.CgroupFD = true, int(c.Cgroup.Fd())
	}
	var child *os.Process
	if err := scheduled(c.Schedule, func() (err error) {
		child, err = execute(c, program, attr)
		return err
	}); err != nil {
		return nil, startError(c, err)
	}
	p, err := hold(child, pidfd, c.OOMScoreAdj)
	if err != nil {
		// Our own child, not waited for yet: the number is still its.
		killErr := child.Kill()
		_, waitErr := child.Wait()
		err = errors.Join(err, killErr, waitErr)
		return nil, vmstate.Errorf(vmstate.Host, "cannot watch the process of %s: %w", c.Binary.Path, err)
	}
	return p, nil
}

// execute runs the program by its descriptor. A program gets the descriptor closed as it begins. The interpreter of a script opens the script
// itself, by the number that the kernel tells it: there the descriptor stays open, and is the one after the last of the files.
func execute(c Command, program *os.File, attr *os.ProcAttr) (*os.Process, error) {
	argv := append([]string{c.Binary.Path}, c.Args...)
	if c.Binary.Script {
		attr.Files = append(attr.Files, program)
		return os.StartProcess(byDescriptor(uintptr(len(attr.Files)-1)), argv, attr)
	}
	// Between fork and exec the child moves its files to their numbers, by way of numbers just above the highest of them
	// (syscall.forkAndExecInChild): the program's must be beyond those.
	highest := 0
	for _, f := range attr.Files {
		highest = max(highest, int(f.Fd()))
	}
	fd, err := unix.FcntlInt(program.Fd(), unix.F_DUPFD_CLOEXEC, max(highest, len(attr.Files))+len(attr.Files)+2)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	return os.StartProcess(byDescriptor(uintptr(fd)), argv, attr)
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
func hold(child *os.Process, pidfd, oomScoreAdj int) (*Process, error) {
	if pidfd < 0 {
		return nil, errors.New("the kernel gives no pidfd; Linux 5.4 or later is needed")
	}
	stat, err := proc.ReadStat(child.Pid)
	if err != nil {
		return nil, errors.Join(err, unix.Close(pidfd))
	}
	p, err := watch(Identity{PID: child.Pid, Start: stat.Start}, child, pidfd)
	if err != nil {
		return nil, err
	}
	// One that has ended already has no such file any more, or nothing comes of it.
	_ = p.SetOOMScoreAdj(oomScoreAdj)
	return p, nil
}

// startError tells a binary that cannot run from a host that refuses.
func startError(c Command, err error) error {
	path, why := c.Binary.Path, cause(err)
	if c.User != nil {
		path += " as " + c.User.Name
	}
	switch {
	case c.Dir != "" && !isDir(c.Dir):
		return vmstate.Errorf(vmstate.Invalid, "cannot run %s in %s: there is no such folder", path, c.Dir).With("name a folder that exists")
	case errors.Is(err, unix.ENOENT):
		return vmstate.Errorf(vmstate.NotFound, "cannot run %s: its interpreter or its loader does not exist", path).With("name a QEMU that is installed")
	case c.User != nil && errors.Is(err, unix.EACCES):
		return vmstate.Errorf(vmstate.Denied, "cannot run %s in %s: %w", path, c.Dir, why).
			With("the user must be able to enter the working folder, and to read and run the binary")
	case errors.Is(err, unix.ENOEXEC), errors.Is(err, unix.EACCES), errors.Is(err, unix.EISDIR):
		return vmstate.Errorf(vmstate.QEMU, "cannot run %s: %w", path, why).With("name a QEMU binary")
	case errors.Is(err, unix.E2BIG):
		return vmstate.Errorf(vmstate.Invalid, "cannot run %s: %w", path, why).With("use fewer arguments")
	case errors.Is(err, unix.EAGAIN):
		return vmstate.Errorf(vmstate.Exhausted, "cannot run %s: there may not be one process more (%w)", path, why).
			With("see pids.max of the cgroups, `ulimit -u` of the user, and /proc/sys/kernel/threads-max")
	}
	return vmstate.Errorf(vmstate.Host, "cannot run %s: %w", path, why)
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

func (c *Command) environment() []string {
	if c.Env != nil {
		return c.Env
	}
	return c.User.environment(environment(os.Environ()))
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

// ProcessName is what the kernel shall call a QEMU that is run from path, in the 15 bytes that it has for that (PR_SET_NAME). A program that is
// executed by a descriptor begins with the descriptor's number as its name.
func ProcessName(path string) string {
	const most = 15
	clean := strings.Map(func(c rune) rune {
		if c <= ' ' || c > '~' || strings.ContainsRune(",=", c) {
			return '_'
		}
		return c
	}, filepath.Base(path))
	return clean[:min(len(clean), most)]
}
