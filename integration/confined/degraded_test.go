package confined_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"qlive/integration/env"
	"qlive/integration/lab"
	"qlive/vmstate"
)

// withoutFUSE lets a daemon run where there is no /dev/fuse.
func withoutFUSE(t *testing.T) func(*exec.Cmd) {
	t.Helper()
	unshare, err := exec.LookPath("unshare")
	if err != nil {
		t.Fatal(err)
	}
	return func(cmd *exec.Cmd) {
		const line = `mount -t tmpfs -o mode=755 none /dev && mknod -m 666 /dev/null c 1 3 && mknod -m 666 /dev/zero c 1 5 &&
			mknod -m 666 /dev/urandom c 1 9 && exec "$0" "$@"`
		cmd.Args = slices.Concat([]string{unshare, "--mount", "/bin/sh", "-c", line}, cmd.Args)
		cmd.Path = unshare
	}
}

// A daemon that cannot have its tree says so, looks after guests all the same, and answers those who only look.
func TestDegraded(t *testing.T) {
	program := lab.BuildProgram(t, "test")
	for name, tt := range map[string]struct {
		prepare func(*exec.Cmd)
		args    []string
		says    string
	}{
		"no /dev/fuse":      {withoutFUSE(t), nil, "/dev/fuse"},
		"no mount point":    {nil, []string{"--mount", file(t) + "/mnt"}, "mount point"},
		"a file is there":   {nil, []string{"--mount", file(t)}, "mount"},
		"a mount is in use": {nil, []string{"--mount", "/proc/self"}, "mount"},
	} {
		t.Run(name, func(t *testing.T) {
			d := lab.NewDaemon(t, lab.DaemonOptions{Program: program, Prepare: tt.prepare, Args: tt.args})
			if _, err := d.Client.Health(t.Context()); vmstate.KindOf(err) != vmstate.Unavailable || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("its health is %v", err)
			}
			if name != "no /dev/fuse" {
				return
			}
			vm := d.Lab.Start(lab.Spec{Bare: true})
			vm.HandOver(env.Newest, "")
			if got := vm.Show(); got.Status != vmstate.Running {
				t.Errorf("the guest is %s", got.Status)
			}
		})
	}
}

// file makes a file where a folder is expected.
func file(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
