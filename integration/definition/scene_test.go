package definition_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"qlive/integration/guest"
	"qlive/integration/lab"
	"qlive/internal/definition"
	"qlive/vmstate"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// small is what a guest verifies quickly.
func small() guest.Params { return guest.Params{FillMiB: 16, DirtyMiB: 2, VerifySecs: -1} }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// bare is a guest that sits in its firmware.
func bare(l *lab.Lab, name string) vmstate.VMSpec {
	return vmstate.VMSpec{Name: name, Binary: l.Env.QEMU("7.2.22"), Args: l.Args(lab.Spec{Bare: true})}
}

// run starts a VM.
func run(t *testing.T, l *lab.Lab, spec vmstate.VMSpec) vmstate.VM {
	t.Helper()
	vm, err := l.Client.StartVM(t.Context(), spec)
	must(t, err)
	return vm
}

// until waits until a VM is as it should be.
func until(t *testing.T, l *lab.Lab, name, what string, holds func(vmstate.VM) bool) vmstate.VM {
	t.Helper()
	var vm vmstate.VM
	l.Eventually(name+" "+what, func() (err error) {
		if vm, err = l.Client.VM(t.Context(), name); err == nil && !holds(vm) {
			err = fmt.Errorf("it is %s, restarts %d, %+v", vm.Status, vm.Restarts, vm.Error)
		}
		return err
	})
	return vm
}

func is(status vmstate.Status) func(vmstate.VM) bool {
	return func(vm vmstate.VM) bool { return vm.Status == status }
}

// kill kills a VM's QEMU.
func kill(t *testing.T, vm vmstate.VM) {
	t.Helper()
	if vm.PID == 0 {
		t.Fatalf("%s has no QEMU", vm.Name)
	}
	must(t, unix.Kill(vm.PID, unix.SIGKILL))
}

// store is the state directory's, to be looked into.
func store(l *lab.Lab) string { return definition.Dir(filepath.Join(l.Dir, "state")) }

func read(t *testing.T, l *lab.Lab, name string) definition.Definition {
	t.Helper()
	d, _, err := definition.Read(filepath.Join(store(l), name+".json"))
	must(t, err)
	return d
}

// boot makes a VM's definition say that the host has booted since.
func boot(t *testing.T, l *lab.Lab, name string) {
	t.Helper()
	path := filepath.Join(store(l), name+".json")
	text, err := os.ReadFile(path)
	must(t, err)
	now := read(t, l, name).BootID
	if now == "" {
		t.Fatalf("%s does not say when it was started", path)
	}
	must(t, os.WriteFile(path, []byte(strings.Replace(string(text), now, "another-boot", 1)), 0o600))
}

// tmpfs mounts one of a size until the test is over.
func tmpfs(t *testing.T, bytes int) string {
	t.Helper()
	dir := t.TempDir()
	must(t, unix.Mount("none", dir, "tmpfs", 0, fmt.Sprintf("size=%d,mode=755", bytes)))
	t.Cleanup(func() { must(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	return dir
}

// fill uses up a file system, and gives what makes room again.
func fill(t *testing.T, dir string) (free func()) {
	t.Helper()
	path := filepath.Join(dir, "filler")
	f, err := os.Create(path)
	must(t, err)
	defer f.Close()
	for block := make([]byte, 64<<10); ; {
		if _, err := f.Write(block); errors.Is(err, unix.ENOSPC) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	return func() { must(t, os.Remove(path)) }
}

// exhausted checks a refusal for want of room: it has the numbers.
func exhausted(t *testing.T, p *vmstate.Problem, words ...string) {
	t.Helper()
	if p == nil || p.Kind() != vmstate.Exhausted || p.Remedy == "" {
		t.Fatalf("%+v is no refusal for want of room", p)
	}
	for _, word := range append(words, "are free") {
		if !strings.Contains(p.Detail, word) {
			t.Errorf("%q is not said in %q", word, p.Detail)
		}
	}
}
