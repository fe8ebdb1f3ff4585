package lab

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

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

// condition says how things stand, for one who wants to know why a test waits in vain: what the daemon says of its VMs, and each thread of their QEMUs
// with its state and the time in clock ticks that it has run, two looks a second apart.
func (l *Lab) condition() string {
	var b strings.Builder
	load, _ := os.ReadFile("/proc/loadavg")
	fmt.Fprintf(&b, "load %s", load)
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	vms, err := l.Client.VMs(ctx)
	if err != nil {
		fmt.Fprintf(&b, "the daemon says: %v\n", err)
	}
	for _, vm := range vms {
		fmt.Fprintf(&b, "%s: %s, run state %s, pid %d, migration %s, error %+v\n", vm.Name, vm.Status, vm.RunState, vm.PID, vm.Migration, vm.Error)
	}
	for range 2 {
		for _, pid := range l.QEMUs(l.t) {
			tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
			for _, task := range tasks {
				text, _ := os.ReadFile(task)
				if f := strings.Fields(oneWord(string(text))); len(f) > 13 {
					fmt.Fprintf(&b, "%d %s: %s %s+%s; ", pid, f[0], f[1], f[12], f[13])
				}
			}
		}
		time.Sleep(time.Second)
	}
	return b.String()
}

// oneWord puts the name of a thread, which may have blanks, into one word.
func oneWord(stat string) string {
	name, rest, ok := strings.Cut(strings.TrimLeft(stat, "0123456789 "), ") ")
	if !ok {
		return ""
	}
	return strings.ReplaceAll(strings.TrimPrefix(name, "("), " ", "_") + " " + rest
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
