package qemu

import (
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"qlive/internal/qemu/cmdline"
	"qlive/vmstate"
)

// Learn finds out what the line args needs for the life of its guest: the versioned machine type in the binary that starts it first,
// what the kernel and the memory paths are on this host (relative ones below dir), and a fresh GUID. It is asked once in a guest's
// life; the facts are then kept.
func Learn(args []string, dir string, info *Info) (cmdline.Facts, error) {
	configs, err := ReadConfigs(args, dir)
	if err != nil {
		return cmdline.Facts{}, err
	}
	if args, err = cmdline.Inline(args, configs); err != nil {
		return cmdline.Facts{}, err
	}
	machine, err := cmdline.ResolveMachine(args, info.Machines)
	if err != nil {
		return cmdline.Facts{}, err
	}
	return cmdline.Facts{Machine: machine, GUID: newGUID(), Paths: LookAtPaths(args, dir), Configs: configs}, nil
}

// maxConfig is the largest file of -readconfig that is read, in bytes.
const maxConfig = 1 << 20

// ReadConfigs reads the files of -readconfig, relative ones below dir; nil if the line names none. Errors are of Kind Invalid.
func ReadConfigs(args []string, dir string) (map[string]string, error) {
	var configs map[string]string
	for _, p := range cmdline.Configs(args) {
		full := p
		if !filepath.IsAbs(p) {
			full = filepath.Join(dir, p)
		}
		text, err := readConfig(full)
		if err != nil {
			return nil, vmstate.Errorf(vmstate.Invalid, "cannot read the options in -readconfig %s: %w", p, err).With("name a readable file, or write its options on the command line")
		}
		if configs == nil {
			configs = map[string]string{}
		}
		configs[p] = text
	}
	return configs, nil
}

func readConfig(path string) (string, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // a FIFO does not hold us up
	if err != nil {
		return "", err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return "", err
	}
	if !st.Mode().IsRegular() || st.Size() > maxConfig {
		return "", fmt.Errorf("it is no ordinary file of at most %d bytes", maxConfig)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxConfig))
	return string(text), err
}

// LookAtPaths tells what the memory paths of a line are on this host, relative ones below dir; nil if it has none.
func LookAtPaths(args []string, dir string) map[string]cmdline.PathInfo {
	var paths map[string]cmdline.PathInfo
	for _, p := range cmdline.Paths(args) {
		if paths == nil {
			paths = map[string]cmdline.PathInfo{}
		}
		full := p
		if !filepath.IsAbs(p) {
			full = filepath.Join(dir, p)
		}
		paths[p] = lookAt(full)
	}
	return paths
}

// lookAt tells what is at path; of what does not exist, which file system it would lie on.
func lookAt(path string) cmdline.PathInfo {
	var info cmdline.PathInfo
	if st, err := os.Stat(path); err == nil {
		info.Exists, info.Dir, info.Regular = true, st.IsDir(), st.Mode().IsRegular()
		info.Linux = info.Regular && isLinux(path)
	}
	for at := path; ; at = filepath.Dir(at) {
		var fs unix.Statfs_t
		err := unix.Statfs(at, &fs)
		if err != nil && at != "/" && at != "." {
			continue
		}
		if err == nil && fs.Type == unix.HUGETLBFS_MAGIC {
			info.PageBytes, info.Memory = uint64(fs.Bsize), true
		}
		if err == nil && fs.Type == unix.TMPFS_MAGIC {
			info.Memory = true
		}
		return info
	}
}

// isLinux tells whether a file says that it is a Linux kernel for x86, by the mark of its boot protocol
// (Documentation/arch/x86/boot.rst of Linux; QEMU looks there, too).
func isLinux(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	const mark, at = "HdrS", 0x202
	var b [len(mark)]byte
	_, err = f.ReadAt(b[:], at)
	return err == nil && string(b[:]) == mark
}

// newGUID is a random GUID (RFC 9562, version 4).
func newGUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // it never fails: crypto/rand ends the program instead
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
