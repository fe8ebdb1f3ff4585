package confined_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"qlive/daemon"
	"qlive/integration/env"
	"qlive/integration/lab"
	"qlive/vmstate"
)

// limit changes a limit of this process, and with it the daemon's, until the test is over or the function that it returns is called.
func limit(t *testing.T, resource int, soft uint64) (restore func()) {
	t.Helper()
	var was unix.Rlimit
	if err := unix.Getrlimit(resource, &was); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(resource, &unix.Rlimit{Cur: soft, Max: was.Max}); err != nil {
		t.Fatal(err)
	}
	restore = func() {
		if err := unix.Setrlimit(resource, &was); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(restore)
	return restore
}

// short checks a refusal for want of something.
func short(t *testing.T, what string, err error, says ...string) {
	t.Helper()
	p := vmstate.ProblemOf(err)
	if err == nil || vmstate.KindOf(err) != vmstate.Exhausted {
		t.Errorf("%s: %v (%s)", what, err, vmstate.KindOf(err))
		return
	}
	for _, s := range says {
		if !strings.Contains(err.Error(), s) {
			t.Errorf("%s: it does not say %q: %v", what, s, err)
		}
	}
	if p.Remedy == "" {
		t.Errorf("%s: nothing is proposed: %+v", what, p)
	}
}

func TestScarcity(t *testing.T) {
	s := newScene(t, nil)
	vm := s.Boot(lab.Spec{Guest: small()})
	t.Run("descriptors", func(t *testing.T) { s.noDescriptors(t, vm) })
	t.Run("memory", func(t *testing.T) { s.killedForMemory(t, vm) })
	s.Eventually("the daemon is well", func() error { _, err := s.Client.Health(t.Context()); return err })
	vm.HandOver(env.Newest, "")
	vm.CheckMemory()
}

// noDescriptors: a daemon that has hardly a descriptor left begins nothing, says the numbers, and goes on answering those who look.
func (s *scene) noDescriptors(t *testing.T, vm *lab.VM) {
	t.Helper()
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	most := uint64(len(open) + 40)
	defer limit(t, unix.RLIMIT_NOFILE, most)()
	numbers := fmt.Sprintf("of the %d descriptors", most)
	_, err = s.Client.Migrate(t.Context(), vmstate.MigrationSpec{VM: vm.Name, Binary: s.Env.QEMU(env.Newest)}, "")
	short(t, "a handoff", err, numbers)
	_, err = s.TryStart(lab.Spec{Name: "vm2", Bare: true})
	short(t, "a VM", err, numbers)
	if got := vm.Show(); got.Status != vmstate.Running {
		t.Errorf("REST says %s", got.Status)
	}
	if got := s.Cat("vm1", "status"); got != "running" {
		t.Errorf("the tree says %s", got)
	}
	s.Eventually("the daemon says that it is short of descriptors", func() error {
		if _, err := s.Client.Health(t.Context()); vmstate.KindOf(err) != vmstate.Unavailable || !strings.Contains(err.Error(), numbers) {
			return fmt.Errorf("its health is %w", err)
		}
		return nil
	})
	if got := s.Cat("health"); !strings.HasPrefix(got, "degraded\n") || !strings.Contains(got, numbers) {
		t.Errorf("the tree says %q", got)
	}
}

// The runtime gives the daemon every descriptor that it may have, and QEMU what the daemon was started with.
func TestDescriptorsOfADaemon(t *testing.T) {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		t.Fatal(err)
	}
	if l.Cur != l.Max {
		t.Errorf("this process may have %d descriptors of %d", l.Cur, l.Max)
	}
}

// outOf is a handoff that is undone because the target lacks something.
func (s *scene) outOf(t *testing.T, vm *lab.VM, binary string, kind vmstate.Kind, says string) {
	t.Helper()
	before := vm.Show().PID
	m := vm.Migrate(vmstate.MigrationSpec{Binary: binary})
	if m.Phase != vmstate.RolledBack || m.Error == nil || m.Error.Kind() != kind {
		t.Fatalf("the handoff is %s: %+v", m.Phase, m.Error)
	}
	if said := m.Error.Detail + " " + strings.Join(m.Error.QEMU, " "); !strings.Contains(said, says) {
		t.Errorf("it does not say %q: %+v", says, m.Error)
	}
	if now := vm.Show(); now.PID != before || now.Status != vmstate.Running {
		t.Errorf("the guest is %s in process %d, was in %d", now.Status, now.PID, before)
	}
	vm.AwaitBeats(20)
}

// What a target cannot have ends it, and the guest goes on: address space, memory of its cgroup, threads, processes.
func TestNothingForTheTarget(t *testing.T) {
	s := newScene(t, func(c *daemon.Config) { c.User = nobody })
	vm := s.Boot(lab.Spec{Guest: small()})
	isTarget := `case "$*" in *"-incoming defer"*) LESS ;; esac; exec QEMU "$@"`
	less := func(name, how string) string {
		return s.script(t, name, env.Installed, strings.ReplaceAll(isTarget, "LESS", how))
	}
	t.Run("address space", func(t *testing.T) {
		s.outOf(t, vm, less("space", "ulimit -v 400000"), vmstate.QEMU, "annot allocate memory")
	})
	t.Run("threads", func(t *testing.T) {
		s.outOf(t, vm, less("threads", "prlimit --nproc=1 --pid $$"), vmstate.QEMU, "Resource temporarily unavailable")
	})
	t.Run("descriptors", func(t *testing.T) {
		s.outOf(t, vm, less("files", "ulimit -n 6"), vmstate.QEMU, "oo many open files")
	})
	t.Run("processes", func(t *testing.T) {
		defer limit(t, unix.RLIMIT_NPROC, 1)()
		s.outOf(t, vm, s.Env.QEMU(env.Installed), vmstate.Exhausted, "there may not be one process more")
	})
	vm.HandOver(env.Newest, "")
	vm.CheckMemory()
}

// killedForMemory: a target that the kernel kills because its cgroup has no memory left leaves the guest where it is.
func (s *scene) killedForMemory(t *testing.T, vm *lab.VM) {
	t.Helper()
	group := memoryCgroup(t, 12<<20)
	greedy := s.script(t, "greedy", env.Installed, `case "$*" in *"-incoming defer"*) echo $$ >`+group+`/cgroup.procs ;; esac; exec QEMU "$@"`)
	s.outOf(t, vm, greedy, vmstate.QEMU, "killed by signal 9")
}

// memoryCgroup makes a cgroup with a limit of memory below the one that the test is in, whichever version of cgroups has that here.
func memoryCgroup(t *testing.T, bytes int) string {
	t.Helper()
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range []struct{ mark, mount, file string }{
		{":memory:", "/sys/fs/cgroup/memory", "memory.limit_in_bytes"}, {"0::", "/sys/fs/cgroup", "memory.max"},
	} {
		for line := range strings.Lines(string(text)) {
			_, path, ok := strings.Cut(strings.TrimSpace(line), kind.mark)
			if !ok {
				continue
			}
			dir := filepath.Join(kind.mount, path, fmt.Sprintf("qlive-test-%d", os.Getpid()))
			if os.Mkdir(dir, 0o755) != nil {
				continue
			}
			t.Cleanup(func() { removeCgroup(t, dir) })
			if err := os.WriteFile(filepath.Join(dir, kind.file), []byte(fmt.Sprint(bytes)), 0o600); err != nil {
				t.Fatal(err)
			}
			return dir
		}
	}
	t.Fatalf("no cgroup here limits memory: %s", text)
	return ""
}

func removeCgroup(t *testing.T, dir string) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if err = unix.Rmdir(dir); err == nil {
			return
		}
	}
	t.Errorf("removing %s: %v", dir, err)
}
