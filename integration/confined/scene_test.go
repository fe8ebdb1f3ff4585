package confined_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"qlive/daemon"
	"qlive/integration/guest"
	"qlive/integration/lab"
	"qlive/internal/failpoint"
	"qlive/internal/proc"
	"qlive/vmstate"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// small is what a guest verifies quickly.
func small() guest.Params { return guest.Params{FillMiB: 16, DirtyMiB: 2, VerifySecs: -1} }

// scene is a daemon whose QEMUs are confined, and a folder for binaries.
type scene struct {
	*lab.Lab
	points *failpoint.Set
	bin    string
}

func newScene(t *testing.T, configure func(*daemon.Config)) *scene {
	t.Helper()
	points, err := failpoint.New("")
	if err != nil {
		t.Fatal(err)
	}
	s := &scene{points: points}
	s.Lab = lab.New(t, lab.Options{Failpoints: points, Configure: configure})
	s.bin = s.folder(t, 0o755)
	return s
}

// folder makes a folder that every user can get to.
func (s *scene) folder(t *testing.T, mode os.FileMode) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "qlive-confined-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, mode); err != nil {
		t.Fatal(err)
	}
	return dir
}

// script makes a binary of shell lines; QEMU stands for a version's binary.
func (s *scene) script(t *testing.T, name, version, text string) string {
	t.Helper()
	path := filepath.Join(s.bin, name)
	text = "#!/bin/sh\n" + strings.ReplaceAll(text, "QEMU", s.Env.QEMU(version)) + "\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// procFile reads a file of a process.
func procFile(t *testing.T, pid int, name string) string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, name))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

// status is a line of /proc/PID/status, its fields with single spaces between them.
func status(t *testing.T, pid int, name string) string {
	t.Helper()
	for line := range strings.Lines(procFile(t, pid, "status")) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.Join(strings.Fields(value), " ")
		}
	}
	t.Fatalf("process %d has no %s", pid, name)
	return ""
}

// children are this process' children and theirs.
func children(t *testing.T) []int {
	t.Helper()
	parents := map[int]int{}
	pids, err := proc.PIDs()
	if err != nil {
		t.Fatal(err)
	}
	for _, pid := range pids {
		if stat, err := proc.ReadStat(pid); err == nil { // else it has just ended
			parents[pid] = stat.Parent
		}
	}
	var list []int
	for pid := range parents {
		for at := pid; at > 1; at = parents[at] {
			if parents[at] == os.Getpid() {
				list = append(list, pid)
				break
			}
		}
	}
	slices.Sort(list)
	return list
}

// hold brings a handoff to the point where both QEMUs are there and nothing has been switched.
func (s *scene) hold(t *testing.T, vm *lab.VM, binary string) vmstate.Migration {
	t.Helper()
	id := vm.MigrateNoWait(vmstate.MigrationSpec{Binary: binary, Hold: true})
	var m vmstate.Migration
	s.Eventually("the handoff is prepared", func() (err error) {
		m, err = s.Client.Migration(t.Context(), id, 0)
		if err == nil && m.Phase != vmstate.Prepared {
			if m.Phase.Ended() {
				t.Fatalf("the handoff is %s: %+v", m.Phase, m.Error)
			}
			err = fmt.Errorf("it is %s", m.Phase)
		}
		return err
	})
	return m
}

// goOn lets a handoff that holds end.
func (s *scene) goOn(t *testing.T, vm *lab.VM, id string) vmstate.Migration {
	t.Helper()
	if _, err := s.Client.Continue(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	m := vm.Wait(id)
	if m.Phase != vmstate.Completed {
		t.Fatalf("the handoff is %s: %+v", m.Phase, m.Error)
	}
	return m
}
