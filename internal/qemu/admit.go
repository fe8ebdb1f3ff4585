package qemu

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"qlive/vmstate"
)

// FileID names a file's content as far as the kernel tells it: another one at the same path has another FileID.
type FileID struct {
	Dev       uint64 `json:"dev"`
	Inode     uint64 `json:"inode"`
	SizeBytes int64  `json:"size_bytes"`
	MtimeNS   int64  `json:"mtime_ns"`
}

// Binary is a program that may run. It holds nothing open.
type Binary struct {
	Path   string `json:"path"` // as it was asked for, and the name that the program is run under
	Real   string `json:"real"` // with its symbolic links followed
	ID     FileID `json:"id"`
	Script bool   `json:"script,omitempty"` // its interpreter is another file, which is admitted too
}

// Identify tells which file is at path now, symbolic links followed.
func Identify(path string) (FileID, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return FileID{}, vmstate.Errorf(vmstate.NotFound, "cannot look at %s: %w", path, err).With("name a file that exists")
	}
	return fileID(&st), nil
}

// Unchanged is an error if the file at b's path is no longer the one that was admitted.
func (b *Binary) Unchanged() error {
	id, err := Identify(b.Path)
	if err != nil {
		return err
	}
	if id != b.ID {
		return b.replaced()
	}
	return nil
}

func (b *Binary) replaced() error {
	return vmstate.Errorf(vmstate.Conflict, "cannot run %s: the file has been replaced since it was checked", b.Path).With("try again")
}

// open admits b once more, and gives the very file that was checked: it is executed by this descriptor (O_PATH), so that nothing that
// happens to the path meanwhile can put another one in its place.
func (b *Binary) open() (*os.File, error) {
	now, f, err := admit(b.Path, 0)
	if err != nil {
		return nil, err
	}
	if now.ID != b.ID {
		_ = f.Close() // nothing was written to it
		return nil, b.replaced()
	}
	return f, nil
}

// CheckPatterns is an error if one of the patterns of allowed_binaries is none.
func CheckPatterns(patterns []string) error {
	for _, p := range patterns {
		if _, err := filepath.Match(p, ""); err != nil || !filepath.IsAbs(p) {
			return vmstate.Errorf(vmstate.Invalid, "cannot use %q in allowed_binaries: it is no pattern of absolute paths", p).
				With("write a path, or a pattern such as /usr/bin/qemu-system-*")
		}
	}
	return nil
}

// Admit decides whether the program at path may run as the daemon, for which it is enough that nobody but root, or the user
// that the daemon runs as, can change it: the file, each folder on the way to it and each symbolic link belong to root,
// and others can write none of them; a folder like /tmp, where all may write but nobody may touch another's files, is as good.
// The interpreter of a script is held to the same. Where there are patterns, path must also match one of them as it is
// written ("*" never matches a slash).
//
// Errors are of Kind Invalid, NotFound or Denied.
func Admit(path string, patterns []string) (*Binary, error) {
	if !filepath.IsAbs(path) || filepath.Clean(path) != path {
		return nil, vmstate.Errorf(vmstate.Invalid, "cannot run %q: it is no plain absolute path", path).
			With("write the whole path of the binary, without . or ..")
	}
	if err := CheckPatterns(patterns); err != nil {
		return nil, err
	}
	matches := func(p string) bool { ok, err := filepath.Match(p, path); return err == nil && ok }
	if len(patterns) > 0 && !slices.ContainsFunc(patterns, matches) {
		return nil, vmstate.Errorf(vmstate.Denied, "cannot run %s: allowed_binaries does not admit it", path).
			With("add it to allowed_binaries in the configuration, or choose one of " + strings.Join(patterns, ", "))
	}
	b, f, err := admit(path, 0)
	if err != nil {
		return nil, err
	}
	_ = f.Close() // nothing was written to it
	return b, nil
}

// admit also gives the file that it has judged.
func admit(path string, depth int) (*Binary, *os.File, error) {
	const deepest = 4 // as the kernel has it for interpreters of interpreters
	if depth > deepest {
		return nil, nil, denied(path, "its interpreter has an interpreter, and so on", "name a program")
	}
	found, err := follow(path)
	if err != nil {
		return nil, nil, err
	}
	b := &Binary{Path: path, Real: found.path, ID: fileID(&found.stat)}
	f := os.NewFile(uintptr(found.fd), b.Real)
	if found.stat.Mode&unix.S_IFMT != unix.S_IFREG || found.stat.Mode&0o111 == 0 {
		err = denied(path, "it is no executable file", "name a QEMU binary")
	} else {
		err = b.judge(f, depth)
	}
	if err != nil {
		_ = f.Close() // nothing was written to it
		return nil, nil, err
	}
	return b, f, nil
}

// judge reads how the file begins and, if it is a script, admits its interpreter.
func (b *Binary) judge(f *os.File, depth int) error {
	// The descriptor serves to name the file, not to read it.
	readable, err := os.Open(byDescriptor(f.Fd()))
	if err != nil {
		return vmstate.Errorf(vmstate.Host, "cannot open %s: %w", b.Path, cause(err))
	}
	defer readable.Close()
	head := make([]byte, headBytes)
	n, _ := readable.ReadAt(head, 0) // an empty file is no script
	interpreter, isScript := interpreterOf(head[:n])
	if !isScript {
		return nil
	}
	b.Script = true
	if !filepath.IsAbs(interpreter) || filepath.Base(interpreter) == "env" {
		return denied(b.Path, "it is a script that does not name its interpreter's path", "begin it with a line such as #!/bin/sh")
	}
	_, program, err := admit(interpreter, depth+1)
	if err != nil {
		p := vmstate.ProblemOf(err)
		return &vmstate.Error{Kind: p.Kind(), Detail: "cannot run " + b.Path + ", because of its interpreter: " + p.Detail, Remedy: p.Remedy, Err: err}
	}
	_ = program.Close() // nothing was written to it
	return nil
}

// headBytes is how much of a file the kernel looks at (BINPRM_BUF_SIZE).
const headBytes = 256

// interpreterOf tells whether a file that begins with head is a script, and finds the path of its interpreter as the kernel does (fs/binfmt_script.c): only
// spaces and tabs stand between words, a zero byte ends the line, and what does not end within the head is none.
func interpreterOf(head []byte) (path string, isScript bool) {
	line, isScript := strings.CutPrefix(string(head[:min(len(head), headBytes)]), "#!")
	if !isScript {
		return "", false
	}
	line, _, whole := strings.Cut(line, "\n")
	line = strings.TrimLeft(line, " \t")
	end := strings.IndexAny(line, " \t\x00")
	switch {
	case end >= 0:
		line = line[:end]
	case !whole && len(head) >= headBytes:
		line = ""
	}
	return line, true
}

// byDescriptor is the path by which the process that has descriptor fd reaches its file, whatever becomes of the file's own path.
func byDescriptor(fd uintptr) string { return "/proc/self/fd/" + strconv.FormatUint(uint64(fd), 10) }

func denied(path, why, remedy string) error {
	return vmstate.Errorf(vmstate.Denied, "cannot run %s: %s", path, why).With(remedy)
}

func fileID(st *unix.Stat_t) FileID {
	return FileID{Dev: st.Dev, Inode: st.Ino, SizeBytes: st.Size, MtimeNS: st.Mtim.Nano()}
}
