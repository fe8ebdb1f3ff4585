package qemu

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"qlive/vmstate"
)

// FileID names a file's content as far as the kernel tells it: another one at the same path has another FileID.
type FileID struct {
	Dev       uint64 `json:"dev"`
	Inode     uint64 `json:"inode"`
	SizeBytes int64  `json:"size_bytes"`
	MtimeNS   int64  `json:"mtime_ns"`
}

// Binary is a program that may run.
type Binary struct {
	Path   string // as it was asked for; what is executed
	Real   string // with its symbolic links followed
	ID     FileID
	Script bool // its interpreter is another file, which is admitted too
}

// Identify tells which file is at path now, symbolic links followed.
func Identify(path string) (FileID, error) {
	info, err := os.Stat(path)
	if err != nil {
		return FileID{}, vmstate.Errorf(vmstate.NotFound, "cannot look at %s: %w", path, cause(err)).With("name a file that exists")
	}
	return fileID(info), nil
}

// Unchanged is an error if the file at b's path is no longer the one that was admitted.
func (b *Binary) Unchanged() error {
	id, err := Identify(b.Path)
	if err != nil {
		return err
	}
	if id != b.ID {
		return vmstate.Errorf(vmstate.Conflict, "cannot run %s: the file has been replaced since it was checked", b.Path).With("try again")
	}
	return nil
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
	return admit(path, 0)
}

func admit(path string, depth int) (*Binary, error) {
	const deepest = 4 // as the kernel has it for interpreters of interpreters
	if depth > deepest {
		return nil, denied(path, "its interpreter has an interpreter, and so on", "name a program")
	}
	real, err := trusted(path)
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(real, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, vmstate.Errorf(vmstate.Host, "cannot open %s: %w", path, cause(err))
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, vmstate.Errorf(vmstate.Host, "cannot look at %s: %w", path, cause(err))
	}
	if !info.Mode().IsRegular() || info.Mode().Perm()&0o111 == 0 {
		return nil, denied(path, "it is no executable file", "name a QEMU binary")
	}
	head := make([]byte, 256)
	n, _ := f.ReadAt(head, 0) // an empty file is no script
	b := &Binary{Path: path, Real: real, ID: fileID(info)}
	interpreter, isScript := strings.CutPrefix(string(head[:n]), "#!")
	if !isScript {
		return b, nil
	}
	b.Script = true
	line, _, _ := strings.Cut(interpreter, "\n")
	words := strings.Fields(line)
	if len(words) == 0 || !filepath.IsAbs(words[0]) || filepath.Base(words[0]) == "env" {
		return nil, denied(path, "it is a script that does not name its interpreter's path", "begin it with a line such as #!/bin/sh")
	}
	if _, err := admit(filepath.Clean(words[0]), depth+1); err != nil {
		p := vmstate.ProblemOf(err)
		return nil, &vmstate.Error{Kind: p.Kind(), Detail: "cannot run " + path + ", because of its interpreter: " + p.Detail, Remedy: p.Remedy, Err: err}
	}
	return b, nil
}

// trusted follows path element by element and gives the file it leads to; each element must be safe.
func trusted(path string) (string, error) {
	const mostLinks = 40
	links, done := 0, "/"
	if err := safe(path, done); err != nil {
		return "", err
	}
	todo := strings.Split(strings.Trim(path, "/"), "/")
	for len(todo) > 0 {
		name := todo[0]
		todo = todo[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			done = filepath.Dir(done)
			continue
		}
		next := filepath.Join(done, name)
		if err := safe(path, next); err != nil {
			return "", err
		}
		target, err := os.Readlink(next)
		if err != nil {
			done = next
			continue
		}
		if links++; links > mostLinks {
			return "", denied(path, "its symbolic links lead in a circle", "name the file itself")
		}
		if filepath.IsAbs(target) {
			done = "/"
		}
		todo = append(strings.Split(target, "/"), todo...)
	}
	return done, nil
}

// safe is an error if somebody else than root or this user can change what at is; path is what was asked for.
func safe(path, at string) error {
	info, err := os.Lstat(at)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return vmstate.Errorf(vmstate.NotFound, "cannot run %s: %s does not exist", path, at).With("name a QEMU that is installed")
	}
	if err != nil {
		return vmstate.Errorf(vmstate.Host, "cannot look at %s: %w", at, cause(err))
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return vmstate.Errorf(vmstate.Internal, "cannot tell the owner of %s", at)
	}
	if st.Uid != 0 && int(st.Uid) != os.Geteuid() {
		return denied(path, fmt.Sprintf("%s belongs to the user %d", at, st.Uid), "chown root "+at)
	}
	if info.Mode()&fs.ModeSymlink != 0 || info.IsDir() && info.Mode()&fs.ModeSticky != 0 {
		return nil // a link's own mode means nothing; in a sticky folder only an entry's owner can change it
	}
	if mode := info.Mode().Perm(); mode&0o002 != 0 || mode&0o020 != 0 && st.Gid != 0 {
		return denied(path, fmt.Sprintf("others can write %s (mode %04o)", at, mode), "chmod go-w "+at)
	}
	return nil
}

func denied(path, why, remedy string) error {
	return vmstate.Errorf(vmstate.Denied, "cannot run %s: %s", path, why).With(remedy)
}

func fileID(info fs.FileInfo) FileID {
	id := FileID{SizeBytes: info.Size(), MtimeNS: info.ModTime().UnixNano()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		id.Dev, id.Inode = st.Dev, st.Ino
	}
	return id
}

// cause is err without the path that a message names already.
func cause(err error) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return e.Err
	}
	return err
}
