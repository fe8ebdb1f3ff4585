package fsview

import (
	"context"
	"errors"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"qlive/vmstate"
)

// textHandle is an open file of one moment's text.
type textHandle struct {
	file text
	data []byte
}

func (h *textHandle) opened() any { return h.file }

// Read copies nothing: the reply is cut out of what was rendered.
func (h *textHandle) Read(_ context.Context, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	if off < 0 || off >= int64(len(h.data)) {
		return fuse.ReadResultData(nil), 0
	}
	return fuse.ReadResultData(h.data[off:min(off+int64(len(dest)), int64(len(h.data)))]), 0
}

// controlHandle is a ctl opened for writing. A command counts as given by whoever may do less, the one that opened the file or the one that
// writes: so nobody gains by handing an open ctl to somebody else, such as to a program that runs as root and can be made to write.
type controlHandle struct {
	tree   *FS
	vm     control
	opener vmstate.Role
}

func (h *controlHandle) opened() any { return h.vm }

// Write obeys one command: each write is a whole one, wherever in the file it goes.
func (h *controlHandle) Write(ctx context.Context, data []byte, _ int64) (uint32, syscall.Errno) {
	vm := string(h.vm)
	err := h.obey(ctx, data)
	if err == nil {
		h.tree.refusals.forget(vm)
		return uint32(len(data)), 0
	}
	m := h.tree.moment()
	h.tree.refusals.note(m.snap, m.now, vm, string(data[:min(len(data), 200)]), err)
	h.tree.opts.Logger.Info().Str("vm", vm).Bytes("written", data[:min(len(data), 200)]).Err(err).Msg("command refused")
	return 0, errnoOf(err)
}

// errnoOf is the errno of err's kind. EAGAIN it must not be: runtimes that keep descriptors in epoll, such as
// Go's, would wait until the file can be written, of which nobody will tell them.
func errnoOf(err error) syscall.Errno {
	errno := vmstate.KindOf(err).Info().Errno
	if errno == syscall.EAGAIN {
		return syscall.ESHUTDOWN
	}
	return errno
}

func (h *controlHandle) obey(ctx context.Context, data []byte) error {
	cmd, err := ParseCommand(data)
	if err != nil {
		return err
	}
	who := callerOf(ctx)
	has := min(h.opener, h.tree.role(who))
	if needs, known := cmd.Verb.Role(); !known || has < needs {
		return vmstate.Lacking(string(cmd.Verb)+" "+string(h.vm), has, needs)
	}
	// The request's own context ends with any signal to the writer; the command must not: see ControlTimeout.
	ctx, cancel := context.WithTimeout(h.tree.ctx, h.tree.opts.ControlTimeout)
	defer cancel()
	err = h.tree.source.Control(ctx, string(h.vm), cmd, who)
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*vmstate.Error](err); ok {
		return err
	}
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return vmstate.Errorf(vmstate.Timeout, "cannot tell whether %s was accepted within %s: %w", cmd, h.tree.opts.ControlTimeout, err)
	case ctx.Err() != nil:
		return vmstate.Errorf(vmstate.Unavailable, "cannot obey %s: the daemon is stopping: %w", cmd, err)
	}
	return err
}
