package daemon

import (
	"fmt"
	"maps"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"qlive/flip/memory"
	"qlive/internal/systemd"
	"qlive/internal/systemd/systemdtest"
	"qlive/vmstate"
)

// firstFD is where a test puts descriptors that a manager passes on: above all that the test opens.
const firstFD = 600

// started is the service that a process would be that m starts with these files, each a descriptor of its own as after an exec.
func started(t *testing.T, m *systemdtest.Manager, vars map[string]string, files ...systemd.File) *systemd.Service {
	t.Helper()
	if vars == nil {
		vars = make(map[string]string)
	}
	vars["NOTIFY_SOCKET"] = m.Address
	var names []string
	for i, f := range files {
		must(t, unix.Dup3(int(f.Fd()), firstFD+i, unix.O_CLOEXEC))
		names = append(names, f.Name)
	}
	if len(files) > 0 {
		vars["LISTEN_PID"], vars["LISTEN_FDS"], vars["LISTEN_FDNAMES"] = "1", strconv.Itoa(len(files)), strings.Join(names, ":")
	}
	s, err := systemd.Open(systemd.Environment{
		Getenv:   func(name string) string { return vars[name] },
		Unsetenv: func(name string) error { delete(vars, name); return nil },
		PID:      1, FirstFD: firstFD,
	})
	must(t, err)
	t.Cleanup(func() { must(t, s.Close()) })
	return s
}

func ram(t *testing.T, vm string, blocks ...string) *memory.Set {
	t.Helper()
	var wants []memory.Want
	for _, b := range blocks {
		wants = append(wants, memory.Want{Name: b, SizeBytes: 4096})
	}
	set, err := memory.Create(vmstate.MemorySpec{}, vm, wants)
	must(t, err)
	t.Cleanup(func() { must(t, set.Close()) })
	return set
}

// inodes are those of files by their names.
func inodes(t *testing.T, files []systemd.File) map[string]uint64 {
	t.Helper()
	list := make(map[string]uint64)
	for _, f := range files {
		info, err := f.Stat()
		must(t, err)
		list[f.Name] = info.Sys().(*syscall.Stat_t).Ino
	}
	if len(list) != len(files) {
		t.Errorf("%d names for %d files", len(list), len(files))
	}
	return list
}

func same(t *testing.T, what string, got, want map[string]uint64) {
	t.Helper()
	if !maps.Equal(got, want) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

// syncWith waits until the manager has acted on everything that was sent before.
func syncWith(t *testing.T, m *systemdtest.Manager, s *systemd.Service) {
	t.Helper()
	mark := systemd.Status(fmt.Sprint("mark ", time.Now().UnixNano()))
	must(t, s.Notify(mark))
	m.Await(t, string(mark))
}
