package fsview

import (
	"context"
	"strings"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"qlive/vmstate"
)

// node is a file or folder that the kernel knows: a path, looked up anew in each request.
type node struct {
	fs.Inode
	tree *FS
	path string
}

var _ interface {
	fs.NodeLookuper
	fs.NodeReaddirer
	fs.NodeGetattrer
	fs.NodeOpener
	fs.NodeSetattrer
	fs.NodeCreater
	fs.NodeMkdirer
	fs.NodeMknoder
	fs.NodeLinker
	fs.NodeSymlinker
	fs.NodeUnlinker
	fs.NodeRmdirer
	fs.NodeRenamer
} = (*node)(nil)

// remembered is how long the kernel may remember what a folder or a file with a text of its own is like (mode and owner never change, size is
// 0, times are the snapshot's), and that a VM has such a file. It asks for all of that on the way to each open: ten questions for one value,
// five with this, and each takes CPU time of both sides. What a file says is never remembered, nor whether there is a VM.
const remembered = time.Second

// steady tells whether something is always like it was: a log grows, and whoever follows it asks for its size.
func steady(found any) bool {
	switch found.(type) {
	case folder, text:
		return true
	}
	return false
}

func (n *node) join(name string) string {
	if n.path == "" {
		return name
	}
	return n.path + "/" + name
}

// Lookup finds name in the folder that n is.
func (n *node) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	n.tree.sitOut()
	path := n.join(name)
	m := n.tree.moment()
	found, ok := m.at(path)
	if !ok {
		return nil, syscall.ENOENT
	}
	n.tree.attr(m, found, &out.Attr)
	if steady(found) {
		out.SetAttrTimeout(remembered)
	}
	if _, isText := found.(text); isText && findVM(m.snap, n.path) != nil { // it is there as long as the VM's folder, which is looked up each time
		out.SetEntryTimeout(remembered)
	}
	child := &node{tree: n.tree, path: path}
	return n.NewInode(ctx, child, fs.StableAttr{Mode: out.Mode, Ino: inode(path)}), 0
}

// Readdir lists the folder that n is, all from one moment.
func (n *node) Readdir(context.Context) (fs.DirStream, syscall.Errno) {
	found, ok := n.tree.moment().at(n.path)
	if !ok {
		return nil, syscall.ENOENT
	}
	dir, ok := found.(folder)
	if !ok {
		return nil, syscall.ENOTDIR
	}
	var entries []fuse.DirEntry
	dir.each(func(name string, isFolder bool) {
		mode := uint32(syscall.S_IFREG)
		if isFolder {
			mode = syscall.S_IFDIR
		}
		entries = append(entries, fuse.DirEntry{Name: name, Mode: mode, Ino: inode(n.join(name))})
	})
	return fs.NewListDirStream(entries), 0
}

// Getattr describes n. What is gone, but still open, is described as it was when it was opened.
func (n *node) Getattr(_ context.Context, f fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	m := n.tree.moment()
	found, ok := m.at(n.path)
	if !ok {
		open, isOpen := f.(interface{ opened() any })
		if !isOpen {
			return syscall.ENOENT
		}
		found = open.opened()
	}
	n.tree.attr(m, found, &out.Attr)
	if steady(found) {
		out.SetTimeout(remembered)
	}
	return 0
}

// Open takes hold of a file.
func (n *node) Open(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	n.tree.sitOut()
	if vm, file, below := strings.Cut(n.path, "/"); below && (file == "outdated" || file == "state.json") {
		n.tree.source.Look(vm) // whoever reads it will act on it
	}
	found, ok := n.tree.moment().at(n.path)
	if !ok {
		return nil, 0, syscall.ENOENT
	}
	access := flags & syscall.O_ACCMODE
	if _, writable := found.(control); writable != (access == syscall.O_WRONLY) || access == syscall.O_RDWR {
		return nil, 0, syscall.EACCES
	}
	switch f := found.(type) {
	case text:
		return &textHandle{f, render(f)}, fuse.FOPEN_DIRECT_IO | fuse.FOPEN_NOFLUSH, 0
	case logText:
		return &logHandle{tree: n.tree, path: n.path, files: f}, fuse.FOPEN_DIRECT_IO | fuse.FOPEN_NOFLUSH, 0
	case control:
		return &controlHandle{n.tree, f, n.tree.role(callerOf(ctx))}, fuse.FOPEN_DIRECT_IO | fuse.FOPEN_NOFLUSH, 0
	case stream:
		h, errno := n.tree.streams.subscribe(n.tree.source, n.tree.reader(ctx))
		if errno != 0 {
			return nil, 0, errno
		}
		return h, fuse.FOPEN_DIRECT_IO | fuse.FOPEN_NOFLUSH | fuse.FOPEN_STREAM | fuse.FOPEN_NONSEEKABLE, 0
	}
	return nil, 0, syscall.EISDIR
}

// Setattr lets a shell truncate ctl, which means nothing, and refuses everything else.
func (n *node) Setattr(ctx context.Context, f fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	const owner = fuse.FATTR_MODE | fuse.FATTR_UID | fuse.FATTR_GID
	if in.Valid&owner != 0 {
		return syscall.EPERM
	}
	if found, ok := n.tree.moment().at(n.path); ok {
		if _, writable := found.(control); !writable {
			return syscall.EPERM
		}
	}
	if size, resized := in.GetSize(); resized && size != 0 {
		return syscall.EINVAL
	}
	return n.Getattr(ctx, f, out)
}

// The tree's shape is not the caller's to change. Without these, go-fuse would take an unlink for done.

// Create refuses.
func (n *node) Create(context.Context, string, uint32, uint32, *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	return nil, nil, 0, syscall.EACCES
}

// Mkdir refuses.
func (n *node) Mkdir(context.Context, string, uint32, *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	return nil, syscall.EPERM
}

// Mknod refuses.
func (n *node) Mknod(context.Context, string, uint32, uint32, *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	return nil, syscall.EPERM
}

// Link refuses.
func (n *node) Link(context.Context, fs.InodeEmbedder, string, *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	return nil, syscall.EPERM
}

// Symlink refuses.
func (n *node) Symlink(context.Context, string, string, *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	return nil, syscall.EPERM
}

// Unlink refuses.
func (n *node) Unlink(context.Context, string) syscall.Errno { return syscall.EPERM }

// Rmdir refuses.
func (n *node) Rmdir(context.Context, string) syscall.Errno { return syscall.EPERM }

// Rename refuses.
func (n *node) Rename(context.Context, string, fs.InodeEmbedder, string, uint32) syscall.Errno {
	return syscall.EPERM
}

// sitOut returns when there is no lull, or the one that there was is over. Whoever opens a file by its path looks something up first, and whoever
// has a folder open opens: who waits there has cost next to nothing yet, and gets what is true when the lull is over.
func (t *FS) sitOut() {
	if over := t.source.Lull(); over != nil {
		<-over
	}
}

// moment is the tree as it is now.
func (t *FS) moment() moment {
	return moment{t.source.Snapshot(), t.opts.clock(), &t.refusals}
}

// attr describes what stands somewhere in the tree. Times are the snapshot's, sizes are 0 for what is rendered
// on opening.
func (t *FS) attr(m moment, found any, out *fuse.Attr) {
	out.Nlink = 1
	out.Uid = t.opts.Trust.UID
	changed := m.snap.At
	who := uint32(0o700) // whom the modes below speak of
	if t.opts.Trust.Group > 0 {
		who |= 0o070
		out.Gid = uint32(t.opts.Trust.Group)
	}
	if t.opts.Trust.Others >= vmstate.RoleRead {
		who |= 0o007
	}
	switch f := found.(type) {
	case folder:
		out.Mode = syscall.S_IFDIR | 0o555&who
	case control:
		out.Mode = syscall.S_IFREG | 0o220&who
	case logText:
		out.Mode = syscall.S_IFREG | 0o444&who
		out.Size, changed = f.stat(changed)
	default:
		out.Mode = syscall.S_IFREG | 0o444&who
	}
	out.SetTimes(&changed, &changed, &changed)
}
