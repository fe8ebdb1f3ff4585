package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// startLimit bounds how long a QEMU may take until its monitor answers, and ends what is left behind.
const startLimit = 30 * time.Second

// process is a QEMU that the bench itself has started.
type process struct {
	cmd    *exec.Cmd
	dir    string
	exited chan struct{} // closed once it has been waited for
	usage  *syscall.Rusage
}

// run starts a QEMU in a folder of its own. files become the descriptors 3, 4, …
func run(binary, dir string, args []string, files ...*os.File) (*process, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	stderr, err := os.Create(filepath.Join(dir, "stderr"))
	if err != nil {
		return nil, err
	}
	defer stderr.Close()
	p := &process{cmd: exec.Command(binary, args...), dir: dir, exited: make(chan struct{})}
	p.cmd.ExtraFiles, p.cmd.Stdout, p.cmd.Stderr = files, stderr, stderr
	// A bench that is killed takes its guests along.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("cannot start %s: %w", binary, err)
	}
	go func() {
		defer close(p.exited)
		_ = p.cmd.Wait() // how it ended is in ProcessState
		p.usage, _ = p.cmd.ProcessState.SysUsage().(*syscall.Rusage)
	}()
	return p, nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// kill ends the process and waits until it is gone.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // an error means that it has ended
	<-p.exited
}

// died says that the process has ended, and its last words; nil while it runs.
func (p *process) died() error {
	select {
	case <-p.exited:
		words, _ := os.ReadFile(filepath.Join(p.dir, "stderr"))
		return fmt.Errorf("cannot go on: QEMU has ended (%v): %s", p.cmd.ProcessState, strings.TrimSpace(string(words)))
	default:
		return nil
	}
}

// wait asks check again and again until it is content, the process has ended, or time is up.
func (p *process) wait(ctx context.Context, check func() error) error {
	deadline := time.Now().Add(startLimit)
	for {
		err := check()
		if err == nil {
			return nil
		}
		if gone := p.died(); gone != nil {
			return gone
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("cannot reach QEMU within %s: %w", startLimit, err)
		}
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// monitor connects to the process' monitor, once it is there.
func (p *process) monitor(ctx context.Context) (m *monitor, err error) {
	err = p.wait(ctx, func() error {
		m, err = dialMonitor(ctx, filepath.Join(p.dir, "qmp"))
		return err
	})
	return m, err
}

// memfd makes guest RAM.
func memfd(bytes int64, hugePageBytes int64) (*os.File, error) {
	flags := unix.MFD_CLOEXEC
	if hugePageBytes > 0 {
		flags |= unix.MFD_HUGETLB
		if hugePageBytes == 2<<20 {
			flags |= unix.MFD_HUGE_2MB
		}
	}
	fd, err := unix.MemfdCreate("bench-ram", flags)
	if err != nil {
		return nil, fmt.Errorf("cannot make guest RAM: %w", err)
	}
	f := os.NewFile(uintptr(fd), "bench-ram")
	if err := f.Truncate(bytes); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot make guest RAM of %d bytes: %w", bytes, err), f.Close())
	}
	return f, nil
}
