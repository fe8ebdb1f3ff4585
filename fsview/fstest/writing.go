package fstest

import (
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func refused(t *testing.T, tree Target) {
	status, dir := tree.path(tree.VM, "status"), tree.path(tree.VM)
	open := func(path string, flags int) error {
		fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0o644)
		if err == nil {
			unix.Close(fd)
		}
		return err
	}
	for _, c := range []struct {
		name string
		err  error
		want syscall.Errno
	}{
		{"open for writing", open(status, unix.O_WRONLY), unix.EACCES},
		{"open for both", open(status, unix.O_RDWR), unix.EACCES},
		{"open and truncate", open(status, unix.O_WRONLY|unix.O_TRUNC), unix.EACCES},
		{"append", open(status, unix.O_WRONLY|unix.O_APPEND), unix.EACCES},
		{"open a log for writing", open(tree.path(tree.VM, "console"), unix.O_WRONLY), unix.EACCES},
		{"open events for writing", open(tree.path("events"), unix.O_RDWR), unix.EACCES},
		{"create", open(tree.path(tree.VM, "new"), unix.O_WRONLY|unix.O_CREAT), unix.EACCES},
		{"create anew", open(status, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL), unix.EEXIST},
		{"truncate", unix.Truncate(status, 0), unix.EPERM},
		{"chmod", unix.Chmod(status, 0o666), unix.EPERM},
		{"chmod ctl", unix.Chmod(tree.path(tree.VM, "ctl"), 0o666), unix.EPERM},
		{"chown", unix.Chown(status, 1, 1), unix.EPERM},
		{"touch", unix.Utimes(status, []unix.Timeval{{Sec: 1}, {Sec: 1}}), unix.EPERM},
		{"unlink", unix.Unlink(status), unix.EPERM},
		{"unlink ctl", unix.Unlink(tree.path(tree.VM, "ctl")), unix.EPERM},
		{"rmdir", unix.Rmdir(dir), unix.EPERM},
		{"mkdir", unix.Mkdir(tree.path("new"), 0o755), unix.EPERM},
		{"mknod", unix.Mknod(tree.path("new"), unix.S_IFIFO|0o644, 0), unix.EPERM},
		{"symlink", unix.Symlink("x", tree.path("new")), unix.EPERM},
		{"link", unix.Link(status, tree.path("new")), unix.EPERM},
		{"rename", unix.Rename(status, tree.path("new")), unix.EPERM},
		{"rename a folder", unix.Rename(dir, tree.path("new")), unix.EPERM},
		{"xattr", unix.Setxattr(status, "user.x", []byte("x"), 0), unix.EOPNOTSUPP},
		{"execute", unix.Access(status, unix.X_OK), unix.EACCES},
	} {
		if !errors.Is(c.err, c.want) {
			t.Errorf("%s: %v, not %v", c.name, c.err, c.want)
		}
	}
	if _, err := os.Stat(status); err != nil {
		t.Errorf("status is gone: %v", err)
	}
}

// WriteCtl writes one command to a VM's ctl, with one write(2).
func (tree Target) WriteCtl(t *testing.T, vm, line string) error {
	t.Helper()
	// Not os.File, which may split a write, or repeat it.
	fd, err := unix.Open(tree.path(vm, "ctl"), unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	n, err := unix.Write(fd, []byte(line))
	if err == nil && n != len(line) {
		t.Errorf("a write of %d bytes to ctl took %d", len(line), n)
	}
	return err
}

func rubbish(t *testing.T, tree Target) {
	for _, line := range []string{
		"rubbish\n", "\n", "   \n", "migrate relative/path\n", "pause now\n", "Pause\n", "cancel\nrollback\n",
		"cancel\n\n", "\xff\xfe\n", "reset\x00\n", "migrate /" + strings.Repeat("x", 4200) + "\n",
		strings.Repeat("pause\n", 100_000),
	} {
		short := line[:min(len(line), 40)]
		if err := tree.WriteCtl(t, tree.VM, line); !errors.Is(err, unix.EINVAL) {
			t.Errorf("%q: %v, not EINVAL", short, err)
			continue
		}
		why := tree.Read(t, tree.VM, "migration", "error")
		for _, want := range []string{"cannot ", "\nkind: invalid\n", "\nremedy: ", "\nrefused: ", "\nat: "} {
			if !strings.Contains("\n"+why, want) {
				t.Errorf("%q: migration/error lacks %q:\n%s", short, want, why)
			}
		}
	}
	_, stderr, err := output(t, "sh", "-c", "echo rubbish | tee "+tree.path(tree.VM, "ctl"))
	if err == nil || !strings.Contains(stderr, "Invalid argument") {
		t.Errorf("echo rubbish | tee ctl: %v, %q", err, stderr)
	}
}

func unreadable(t *testing.T, tree Target) {
	for _, flags := range []int{unix.O_RDONLY, unix.O_RDWR} {
		if fd, err := unix.Open(tree.path(tree.VM, "ctl"), flags|unix.O_CLOEXEC, 0); !errors.Is(err, unix.EACCES) {
			unix.Close(fd)
			t.Errorf("opening ctl with flags %#o: %v, not EACCES", flags, err)
		}
	}
}
