package fsview

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"qlive/vmstate"
)

const (
	fsType  = "fuse.qlive"
	maxRead = 128 << 10

	// unmountGrace is how long Close lets readers leave before it cuts them off.
	unmountGrace = 2 * time.Second
	// abortGrace is how long the kernel may take to cut them off.
	abortGrace = 5 * time.Second
)

// FS is a mounted tree.
type FS struct {
	dir    string
	dev    uint64 // of its files
	source Source
	opts   Options

	refusals refusals
	streams  *streams

	ctx    context.Context // of commands; ends with the tree
	cancel context.CancelFunc
	served chan struct{} // closed when the last request has been answered
}

// Mount mounts the tree on the empty folder dir and serves it until [FS.Close], or until somebody else unmounts
// it; it answers before Mount returns. A mount that a dead daemon has left on dir is cleared away first. Anything
// else there is left alone, and the error is a *vmstate.Error: of kind NotFound (no such folder), Conflict (not
// empty, or something is mounted there), Denied, Unsupported (no FUSE) or Host.
//
// ctx bounds the mounting alone.
func Mount(ctx context.Context, dir string, source Source, opts Options) (*FS, error) {
	opts = opts.withDefaults()
	opts.Trust.UID = uint32(os.Geteuid())
	dir, err := mountPoint(ctx, dir, opts.Logger)
	if err != nil {
		return nil, err
	}
	fd, err := mountFUSE(dir, opts.AllowOther)
	if err != nil {
		return nil, err
	}
	t := &FS{
		dir: dir, source: source, opts: opts,
		streams: newStreams(opts.MaxEventReaders, opts.MaxEventReadersPerUser), served: make(chan struct{}),
	}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	// From here on the descriptor is the server's.
	server, err := fuse.NewServer(t.nodes(), fmt.Sprintf("/dev/fd/%d", fd), t.serverOptions())
	if err != nil {
		t.cancel()
		_ = unix.Unmount(dir, unix.MNT_DETACH)
		return nil, vmstate.Errorf(vmstate.Host, "cannot serve the tree on %s: %w", dir, err)
	}
	go func() {
		defer close(t.served)
		server.Serve()
	}()
	if err := t.begin(); err != nil {
		_ = t.Close(ctx)
		return nil, vmstate.Errorf(vmstate.Host, "cannot read the tree just mounted on %s: %w", dir, err)
	}
	opts.Logger.Info().Str("dir", dir).Msg("tree mounted")
	return t, nil
}

// Dir is where the tree is mounted, with all symbolic links resolved.
func (t *FS) Dir() string { return t.dir }

// Done is closed when the tree is served no more, be it closed or unmounted by somebody else.
func (t *FS) Done() <-chan struct{} { return t.served }

func (t *FS) nodes() fuse.RawFileSystem {
	var never time.Duration
	return fs.NewNodeFS(&node{tree: t}, &fs.Options{
		EntryTimeout: &never, AttrTimeout: &never,
		NullPermissions: true,
		Logger:          t.fuseLog(),
	})
}

func (t *FS) serverOptions() *fuse.MountOptions {
	return &fuse.MountOptions{
		Name: "qlive", FsName: "qlive",
		MaxWrite:      maxRead,
		DisableXAttrs: true,
		DisableSplice: true, // a value of some bytes costs less to copy than to pass through a pipe
		Logger:        t.fuseLog(),
		PanicHandler: func(v any) fuse.Status {
			t.opts.Logger.Error().Interface("panic", v).Bytes("stack", debug.Stack()).Msg("tree request failed")
			return fuse.EIO
		},
	}
}

// fuseLog takes what go-fuse has to say: replies that came too late, mostly.
func (t *FS) fuseLog() *log.Logger {
	return log.New(t.opts.Logger.With().Str("from", "go-fuse").Logger(), "", 0)
}

// begin waits for the first answer, and makes it one that keeps Go programs which read the tree from ever
// asking the kernel to poll it: after one refused poll the kernel asks no more.
func (t *FS) begin() error {
	// go-fuse knows a file of this name, which no folder shows, for that very purpose.
	fd, err := unix.Open(filepath.Join(t.dir, ".go-fuse-epoll-hack"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN | unix.POLLOUT}}, 0)
	var st unix.Stat_t
	if err := unix.Stat(t.dir, &st); err != nil {
		return err
	}
	t.dev = st.Dev
	return nil
}

// Close ends the tree: readers of events get the end of their file, commands that wait are cancelled, the tree
// is unmounted, and everything that served it has ended when Close returns nil. Who keeps the tree busy for more
// than two seconds, or until ctx ends, is cut off. Closing again waits for the same end.
//
// The source should end its subscriptions before: then readers of events see what was said last.
func (t *FS) Close(ctx context.Context) error {
	t.streams.stop()
	t.cancel()
	grace, cancel := context.WithTimeout(ctx, unmountGrace)
	defer cancel()
	if !t.unmount(grace) || !t.ends(grace) {
		t.abort()
	}
	select {
	case <-t.served:
	case <-time.After(abortGrace):
		return vmstate.Errorf(vmstate.Host, "cannot end the tree on %s: requests are still being answered after %s", t.dir, abortGrace).
			With("look who uses it with fuser -vm " + t.dir)
	}
	t.streams.dropAll()
	t.opts.Logger.Info().Str("dir", t.dir).Msg("tree unmounted")
	return nil
}

// ends tells whether the tree is served no more before ctx ends. One that is unmounted goes on where a mount namespace has a copy of the mount,
// such as that of a container or of a service with PrivateTmp=.
func (t *FS) ends(ctx context.Context) bool {
	select {
	case <-t.served:
		return true
	case <-ctx.Done():
		return false
	}
}

// unmount tries until ctx ends, and tells whether the tree is served no more or about to be.
func (t *FS) unmount(ctx context.Context) bool {
	retry := time.NewTicker(10 * time.Millisecond)
	defer retry.Stop()
	for {
		select {
		case <-t.served: // by somebody else's hand: what is mounted now is not ours
			return true
		default:
		}
		if t.isMounted() && unix.Unmount(t.dir, unix.UMOUNT_NOFOLLOW) == nil {
			return true
		}
		select {
		case <-t.served:
			return true
		case <-ctx.Done():
			return false
		case <-retry.C:
		}
	}
}

// abort cuts off whoever still holds a file of the tree, and takes it out of sight.
func (t *FS) abort() {
	t.opts.Logger.Warn().Str("dir", t.dir).Msg("tree is busy: its readers are cut off")
	if t.isMounted() {
		_ = unix.Unmount(t.dir, unix.MNT_FORCE|unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		return
	}
	// Somebody has detached it already, or another namespace has it: only the control file system still knows the connection.
	if err := abortConnection(unix.Minor(t.dev)); err != nil {
		t.opts.Logger.Warn().Err(err).Msg("cannot cut off the readers of a detached tree")
	}
}

// abortConnection does what writing to /sys/fs/fuse/connections/N/abort does, without needing that mounted.
func abortConnection(n uint32) error {
	fs, err := unix.Fsopen("fusectl", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(fs)
	if err := unix.FsconfigCreate(fs); err != nil {
		return err
	}
	dir, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	file, err := unix.Openat(dir, fmt.Sprintf("%d/abort", n), unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(file)
	_, err = unix.Write(file, []byte("1"))
	return err
}

// isMounted tells whether what is mounted on the tree's folder is this tree.
func (t *FS) isMounted() bool {
	m, found, err := mountedOn(t.dir)
	return err == nil && found && m.fsType == fsType && (m.dev == t.dev || t.dev == 0)
}
