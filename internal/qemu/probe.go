package qemu

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"qlive/internal/qemu/cmdline"
	"qlive/internal/qmp"
	"qlive/vmstate"
)

// Info is what a binary says of itself.
type Info struct {
	Binary       string            `json:"binary"`
	Version      cmdline.Version   `json:"version"`
	Package      string            `json:"package,omitempty"`
	Machines     []cmdline.Machine `json:"machines"`
	Capabilities []string          `json:"capabilities"` // of migration, sorted
}

// Machine finds a machine type by its name or alias.
func (i *Info) Machine(name string) (cmdline.Machine, bool) {
	k := slices.IndexFunc(i.Machines, func(m cmdline.Machine) bool { return m.Name == name || m.Alias != "" && m.Alias == name })
	if k < 0 {
		return cmdline.Machine{}, false
	}
	return i.Machines[k], true
}

// Can tells whether the binary has a capability of migration.
func (i *Info) Can(capability string) bool { return slices.Contains(i.Capabilities, capability) }

// Prober asks binaries what they are, one at a time, and remembers the answers for as long as the file is the same. Of a script
// it remembers them for a minute: the program that it runs may be replaced behind it.
type Prober struct {
	timeout time.Duration
	user    *User // whom the binaries are asked as
	turn    chan struct{}
	mu      sync.Mutex
	known   map[FileID]answer
}

type answer struct {
	info *Info
	at   time.Time
}

const (
	probeTime  = 15 * time.Second // a cold start from a slow disk takes seconds
	scriptTime = time.Minute
)

// NewProber makes a Prober that knows nothing yet. It runs binaries as u, or as this process does if that is nil.
func NewProber(u *User) *Prober {
	return &Prober{timeout: probeTime, user: u, turn: make(chan struct{}, 1), known: map[FileID]answer{}}
}

// Probe starts b without a guest, asks it over QMP, and ends it. It takes a few tenths of a second, 15 seconds at the most.
// Errors: NotFound, QEMU (it is no QEMU, or it ended; Words quote it), Timeout, or the context's.
func (p *Prober) Probe(ctx context.Context, b *Binary) (*Info, error) {
	if info := p.remembered(b); info != nil { // without waiting for another that is slow
		return info, nil
	}
	select {
	case p.turn <- struct{}{}:
		defer func() { <-p.turn }()
	case <-ctx.Done():
		return nil, fmt.Errorf("cannot ask %s what it is: %w", b.Path, context.Cause(ctx))
	}
	if info := p.remembered(b); info != nil {
		return info, nil
	}
	info, err := probe(ctx, b, p.user, p.timeout)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.known[b.ID] = answer{info, time.Now()}
	return info, nil
}

func (p *Prober) remembered(b *Binary) *Info {
	p.mu.Lock()
	defer p.mu.Unlock()
	a, ok := p.known[b.ID]
	if !ok || b.Script && time.Since(a.at) > scriptTime {
		return nil
	}
	info := *a.info
	info.Binary = b.Path
	return &info
}

// probe talks to the binary over a socket pair, so that there is no path to clean up.
func probe(ctx context.Context, b *Binary, u *User, timeout time.Duration) (*Info, error) {
	path := b.Path
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, vmstate.Errorf(vmstate.Host, "cannot ask %s what it is: %w", path, err)
	}
	defer ours.Close()
	log, err := memoryFile("probe")
	if err != nil {
		return nil, errors.Join(vmstate.Errorf(vmstate.Host, "cannot ask %s what it is: %w", path, err), theirs.Close())
	}
	defer log.Close()
	process, err := start(Command{
		Binary: b, Dir: "/", Files: []*os.File{theirs}, User: u, Brief: true,
		Args: []string{
			"-machine", "none,accel=tcg:kvm", "-nodefaults", "-no-user-config", "-S", "-display", "none",
			"-chardev", "socket,id=probe,fd=3", "-mon", "chardev=probe,mode=control",
		},
	}, log)
	closeErr := theirs.Close()
	if err != nil {
		return nil, err
	}
	info, err := ask(ctx, path, ours, process)
	err = errors.Join(err, closeErr)
	if err != nil {
		err = explain(ctx, b, timeout, process, log, err)
	}
	killErr := process.Kill()
	<-process.Done()
	if err := errors.Join(err, killErr, process.Release()); err != nil {
		return nil, err
	}
	return info, nil
}

// ask puts the questions.
func ask(ctx context.Context, path string, conn *net.UnixConn, process *Process) (*Info, error) {
	c, err := qmp.New(ctx, conn, qmp.Options{Exited: process.Done()})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	machines, err := c.QueryMachines(ctx)
	if err != nil {
		return nil, err
	}
	caps, err := c.QueryMigrateCapabilities(ctx)
	if err != nil {
		return nil, err
	}
	v := c.Version()
	info := &Info{Binary: path, Version: cmdline.Version{Major: v.Major, Minor: v.Minor, Micro: v.Micro}, Package: v.Package}
	for _, m := range machines {
		info.Machines = append(info.Machines, cmdline.Machine{
			Name: m.Name, Alias: m.Alias, Default: m.IsDefault, Deprecated: m.Deprecated, RAMID: m.DefaultRAMID,
		})
	}
	for name := range caps {
		info.Capabilities = append(info.Capabilities, name)
	}
	slices.Sort(info.Capabilities)
	return info, nil
}

// explain says why a binary did not answer: it ended, it was too slow, or it spoke something else.
func explain(ctx context.Context, b *Binary, timeout time.Duration, process *Process, log *os.File, err error) error {
	path := b.Path
	e := &vmstate.Error{Kind: vmstate.QEMU, Err: err, Remedy: "name a qemu-system binary, and try it by hand: " + path + " -version"}
	if b.Script {
		e.Remedy += "; a script finds its own folder with dirname \"$(readlink -f \"$0\")\", not with dirname \"$0\""
	}
	// A binary that ends closes its socket a moment before its end can be seen.
	const grace = 200 * time.Millisecond
	settle := time.NewTimer(grace)
	defer settle.Stop()
	select {
	case <-process.Done():
	case <-settle.C:
	}
	exit, over := process.Exited()
	switch {
	case over:
		e.Detail = fmt.Sprintf("cannot find out what %s is: it %s before it answered", path, exit)
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		e.Kind = vmstate.Timeout
		e.Detail = fmt.Sprintf("cannot find out what %s is: it has not answered within %v", path, timeout)
	case ctx.Err() != nil:
		return fmt.Errorf("cannot find out what %s is: %w", path, context.Cause(ctx))
	default:
		e.Detail = fmt.Sprintf("cannot find out what %s is: %v", path, err)
	}
	e.Words = tail(log, Words)
	return e
}

// socketPair is a connection whose other end can be inherited.
func socketPair() (*net.UnixConn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	near, far := os.NewFile(uintptr(fds[0]), "monitor"), os.NewFile(uintptr(fds[1]), "monitor")
	conn, err := net.FileConn(near)
	err = errors.Join(err, near.Close())
	if err != nil {
		return nil, nil, errors.Join(err, far.Close())
	}
	unixConn, ok := conn.(*net.UnixConn)
	if !ok {
		return nil, nil, errors.Join(errors.New("a socket pair is no unix connection"), conn.Close(), far.Close())
	}
	return unixConn, far, nil
}

func memoryFile(name string) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFL, unix.O_APPEND); err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), name), nil
}
