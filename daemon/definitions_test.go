package daemon

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"qlive/internal/definition"
	"qlive/restapi"
	"qlive/vmstate"
)

func defined(name, binary string) definition.Definition {
	return definition.Definition{Spec: vmstate.VMSpec{Name: name, Binary: binary, Dir: "/", Restart: vmstate.RestartOnFailure}}
}

// stateOf makes a state directory with definitions, as an earlier daemon has left it.
func stateOf(t *testing.T, cfg Config, list ...definition.Definition) *definition.Store {
	t.Helper()
	s, err := definition.Open(cfg.StateDir)
	must(t, err)
	for _, d := range list {
		must(t, s.Put(d))
	}
	return s
}

// ready is a daemon that has taken up what there was.
func ready(t *testing.T, cfg Config) *Daemon {
	t.Helper()
	d := open(t, cfg)
	eventually(t, "the daemon is ready", func() bool { return d.Snapshot().Health.Ready })
	return d
}

func shown(t *testing.T, d *Daemon, name string) vmstate.VM {
	t.Helper()
	vm, ok := d.Snapshot().VM(name)
	if !ok {
		t.Fatalf("%s is not shown", name)
	}
	return vm
}

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 30 s: %s", what)
		}
	}
}

// The VMs of the state directory are there, stopped, after a start of the daemon; they can be asked to start and be removed.
func TestDefinedVMsAreStopped(t *testing.T) {
	cfg := testConfig(t)
	store := stateOf(t, cfg, defined("vm1", "/bin/true"), defined("vm2", "/no/such/qemu"))
	d := ready(t, cfg)
	vm := shown(t, d, "vm1")
	if vm.Status != vmstate.Stopped || vm.RunState != "none" || vm.PID != 0 || vm.Restart != vmstate.RestartOnFailure || vm.QEMU.Binary != "/bin/true" {
		t.Errorf("%+v", vm)
	}
	_, err := d.StartVM(t.Context(), vmstate.VMSpec{Name: "vm1", Binary: "/bin/true"})
	refusedAs(t, err, vmstate.Conflict, "there is a VM of that name", "qlive rm vm1")
	_, err = d.PauseVM(t.Context(), "vm1")
	refusedAs(t, err, vmstate.Conflict, "it has no QEMU", "qlive start vm1")
	_, err = d.Migrate(t.Context(), vmstate.MigrationSpec{VM: "vm1", Binary: "/bin/true"})
	refusedAs(t, err, vmstate.Conflict, "it has no QEMU")

	_, err = d.StartStoppedVM(t.Context(), "vm2")
	refusedAs(t, err, vmstate.NotFound, "/no/such/qemu")
	if vm := shown(t, d, "vm2"); vm.Status != vmstate.Broken || vm.Error == nil || !strings.Contains(vm.Error.Detail, "/no/such/qemu") {
		t.Errorf("%+v", vm)
	}
	_, err = d.StartStoppedVM(t.Context(), "vm1")
	refusedAs(t, err, vmstate.QEMU, "/bin/true")
	if left, _ := os.ReadDir(filepath.Join(cfg.RunDir, "vms")); len(left) > 0 {
		t.Errorf("%v are left of starts that failed", left)
	}
	if _, err := store.Get("vm1"); err != nil {
		t.Errorf("a start that failed takes the definition: %v", err)
	}
	must(t, os.Remove(store.Path("vm1")))
	_, err = d.StartStoppedVM(t.Context(), "vm1")
	refusedAs(t, err, vmstate.NotFound, "its definition "+store.Path("vm1")+" is gone", "qlive run")

	for _, name := range []string{"vm1", "vm2"} {
		must(t, d.RemoveVM(t.Context(), name, restapi.RemoveKill))
		if _, ok := d.Snapshot().VM(name); ok {
			t.Errorf("%s is still shown", name)
		}
	}
	if list, err := store.All(); err != nil || len(list) != 0 {
		t.Errorf("%+v, %v", list, err)
	}
}

// Started by itself is what asks for it and has not been started since the host booted. A try that failed is said, and made again by the
// next daemon.
func TestAutostart(t *testing.T) {
	cfg := testConfig(t)
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	must(t, err)
	auto := func(name, boot string) definition.Definition {
		d := defined(name, "/no/such/qemu")
		d.Spec.Autostart, d.BootID = true, strings.TrimSpace(boot)
		return d
	}
	store := stateOf(t, cfg, defined("manual", "/no/such/qemu"), auto("this-boot", string(boot)), auto("last-boot", "another"), auto("never", ""))
	d := ready(t, cfg)
	for name, want := range map[string]vmstate.Status{"manual": vmstate.Stopped, "this-boot": vmstate.Stopped, "last-boot": vmstate.Broken, "never": vmstate.Broken} {
		eventually(t, name+" is "+string(want), func() bool { return shown(t, d, name).Status == want })
	}
	if vm := shown(t, d, "last-boot"); !vm.Autostart || vm.Error == nil || !strings.Contains(vm.Error.Detail, "/no/such/qemu") {
		t.Errorf("%+v", vm)
	}
	if def, err := store.Get("last-boot"); err != nil || def.BootID != "another" {
		t.Errorf("%+v, %v", def, err)
	}
}

// A definition that cannot be read is said, in the VM and in the daemon's health, and nobody writes over it.
func TestUnreadableDefinitions(t *testing.T) {
	cfg := testConfig(t)
	store := stateOf(t, cfg, defined("good", "/bin/true"))
	newer := `{"format":"qlive-definition","level":99}`
	must(t, os.WriteFile(store.Path("newer"), []byte(newer), 0o600))
	must(t, os.WriteFile(store.Path("torn"), []byte("{\n\"format\":"), 0o600))
	d := ready(t, cfg)
	for name, says := range map[string]string{"newer": "format level 99", "torn": "line 2"} {
		vm := shown(t, d, name)
		if vm.Status != vmstate.Broken || vm.Error == nil || !strings.Contains(vm.Error.Detail, says) || !strings.Contains(vm.Error.Detail, store.Path(name)) {
			t.Errorf("%s: %+v", name, vm)
		}
		_, err := d.StartStoppedVM(t.Context(), name)
		refusedAs(t, err, vm.Error.Kind(), says)
		_, err = d.StartVM(t.Context(), vmstate.VMSpec{Name: name, Binary: "/bin/true"})
		refusedAs(t, err, vmstate.Conflict, "there is a VM of that name")
	}
	if text, err := os.ReadFile(store.Path("newer")); err != nil || string(text) != newer {
		t.Errorf("%q, %v", text, err)
	}
	if h := d.Snapshot().Health; !h.Degraded || !h.Ready || len(h.Problems) != 2 {
		t.Errorf("%+v", h)
	}
	must(t, d.RemoveVM(t.Context(), "torn", restapi.RemoveKill))
	must(t, d.RemoveVM(t.Context(), "newer", restapi.RemoveKill))
	if h := d.Snapshot().Health; h.Degraded || len(h.Problems) != 0 {
		t.Errorf("%+v", h)
	}
}

// A state directory belongs to one daemon.
func TestStateDirectoryIsOneDaemons(t *testing.T) {
	first := testConfig(t)
	open(t, first)
	second := testConfig(t)
	second.StateDir = first.StateDir
	d := New(second, Options{Version: "test"})
	err := d.Open(t.Context())
	refusedAs(t, err, vmstate.Conflict, first.StateDir, "state_dir")
	third := testConfig(t)
	third.RunDir = second.RunDir // which the refused one has let go of
	open(t, third)
}

// A state directory that cannot be used does not keep the daemon from its guests.
func TestStateDirectoryUnusable(t *testing.T) {
	cfg := testConfig(t)
	must(t, os.MkdirAll(filepath.Dir(cfg.StateDir), 0o755))
	must(t, os.Symlink("/proc/self/fdinfo", cfg.StateDir)) // nothing can be made there, by root neither
	d := ready(t, cfg)
	if h := d.Snapshot().Health; !h.Ready || !h.Degraded || len(h.Problems) == 0 {
		t.Errorf("%+v", h)
	}
	_, err := d.StartVM(t.Context(), vmstate.VMSpec{Name: "vm1", Binary: "/bin/true"})
	refusedAs(t, err, vmstate.Host, cfg.StateDir)
	if _, ok := d.Snapshot().VM("vm1"); ok {
		t.Error("a VM without a definition is shown")
	}
}

// What could not be written is written later, all changes in order, and is said meanwhile.
func TestLateChanges(t *testing.T) {
	cfg := testConfig(t)
	store := stateOf(t, cfg, defined("vm1", "/bin/true"))
	d := ready(t, cfg)
	dir := filepath.Dir(store.Path("vm1"))
	text, err := os.ReadFile(store.Path("vm1"))
	must(t, err)
	must(t, os.WriteFile(store.Path("vm1"), []byte("{"), 0o600)) // cannot be read, so it is not written over
	d.definitions.change("vm1", func(def *definition.Definition) { def.Spec.Binary = "/a" })
	d.definitions.change("vm1", func(def *definition.Definition) { def.Spec.Binary += "/b" })
	if h := d.Snapshot().Health; !h.Degraded {
		t.Errorf("%+v", h)
	}
	must(t, os.WriteFile(store.Path("vm1"), text, 0o600))
	d.definitions.retry()
	if def, err := store.Get("vm1"); err != nil || def.Spec.Binary != "/a/b" {
		t.Errorf("%+v, %v in %s", def, err, dir)
	}
	if h := d.Snapshot().Health; h.Degraded {
		t.Errorf("%+v", h)
	}
	must(t, d.RemoveVM(context.Background(), "vm1", restapi.RemoveKill))
}
