package lab

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"qlive/internal/proc"
	"qlive/vmstate"
)

// QEMUs are the pids of all processes that this lab's daemon has started and that live.
func (l *Lab) QEMUs(t testing.TB) []int {
	t.Helper()
	return l.withArgument(t, l.RunDir()+"/")
}

// withArgument are the pids of QEMUs whose command line contains word.
func (l *Lab) withArgument(t testing.TB, word string) []int {
	t.Helper()
	paths, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var pids []int
	for _, path := range paths {
		args, err := os.ReadFile(path)
		if err != nil || !bytes.Contains(args, []byte("qemu-system")) || !strings.Contains(string(args), word) {
			continue
		}
		pid, err := strconv.Atoi(strings.Split(path, "/")[2])
		if err != nil {
			t.Fatal(err)
		}
		pids = append(pids, pid)
	}
	return pids
}

// StopTarget sends SIGSTOP to the target of the VM's current migration.
func (l *Lab) StopTarget(t testing.TB, vm string) error {
	list, err := l.Client.Migrations(t.Context(), vm)
	if err != nil {
		return err
	}
	if len(list) == 0 || list[0].To.PID == 0 {
		return fmt.Errorf("%s has no target", vm)
	}
	return unix.Kill(list[0].To.PID, unix.SIGSTOP)
}

// MigrateNoWait asks for a handoff and returns its id.
func (v *VM) MigrateNoWait(spec vmstate.MigrationSpec) string {
	v.lab.t.Helper()
	spec.VM = v.Name
	m, err := v.lab.Client.Migrate(v.lab.t.Context(), spec, "")
	if err != nil {
		v.lab.t.Fatalf("asking for a migration: %v", err)
	}
	return m.ID
}

// nothingLeft makes sure that a daemon that has ended in this process has left no QEMU, no mount, and no descriptor of guest RAM.
func (l *Lab) nothingLeft() {
	if left := l.QEMUs(l.t); len(left) > 0 {
		l.t.Errorf("QEMUs are left: %v", left)
	}
	mounts, err := proc.ReadMounts()
	if err != nil {
		l.t.Error(err)
	}
	for _, m := range mounts {
		if strings.HasPrefix(m.Point, l.Dir+"/") {
			l.t.Errorf("a mount is left: %s", m.Point)
		}
	}
	fds, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		l.t.Error(err)
	}
	for _, fd := range fds {
		if link, err := os.Readlink(fd); err == nil && strings.HasPrefix(link, "/memfd:qlive-") {
			l.t.Errorf("a descriptor of guest RAM is left: %s", link)
		}
	}
}
