package definition_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"qlive/integration/env"
	"qlive/integration/lab"
	"qlive/vmstate"
)

// What a daemon that is killed leaves, for the next one and for doctor.
func TestDaemonKilled(t *testing.T) {
	program := lab.BuildProgram(t, "test")
	t.Run("autostart", func(t *testing.T) { autostart(t, program) })
	t.Run("out of reach", func(t *testing.T) { outOfReach(t, program) })
	t.Run("doctor", func(t *testing.T) { tellAll(t, program) })
	t.Run("full run directory", func(t *testing.T) { restartFull(t, program) })
}

// autostart: after a boot of the host the VMs with autostart run and the others stand; a daemon that is merely restarted starts nothing, least of
// all beside a QEMU that is there.
func autostart(t *testing.T, program string) {
	d := lab.NewDaemon(t, lab.DaemonOptions{NoTree: true, Program: program})
	auto := bare(d.Lab, "auto")
	auto.Autostart = true
	first := run(t, d.Lab, auto)
	again := bare(d.Lab, "manual")
	again.Restart = vmstate.RestartOnFailure
	second := run(t, d.Lab, again)

	// The daemon is restarted under a guest that runs, and even told that the host has booted: no second QEMU.
	d.Kill()
	boot(t, d.Lab, "auto")
	d.Start()
	if pids := d.QEMUs(t); len(pids) != 2 {
		t.Fatalf("processes %v live, two should", pids)
	}
	if vm, err := d.Client.VM(t.Context(), "auto"); err != nil || vm.PID != first.PID || vm.Status != vmstate.Running {
		t.Errorf("%+v, %v", vm, err)
	}

	// What crashes while no daemon watches is started anew all the same.
	d.Kill()
	kill(t, second)
	d.Start()
	if vm := until(t, d.Lab, "manual", "runs again", is(vmstate.Running)); vm.Restarts != 1 || vm.PID == second.PID {
		t.Errorf("%+v", vm)
	}

	// So is what was waiting for that when the daemon ended.
	kill(t, until(t, d.Lab, "manual", "runs", is(vmstate.Running)))
	until(t, d.Lab, "manual", "is to be started anew", is(vmstate.Starting))
	d.Terminate()
	d.Start()
	until(t, d.Lab, "manual", "runs again", is(vmstate.Running))

	// The host boots: nothing runs, and the run directory is empty.
	d.Kill()
	endAll(t, d)
	must(t, os.RemoveAll(filepath.Join(d.RunDir(), "vms")))
	boot(t, d.Lab, "auto")
	boot(t, d.Lab, "manual")
	d.Start()
	until(t, d.Lab, "auto", "runs", is(vmstate.Running))
	if vm := until(t, d.Lab, "manual", "is stopped", is(vmstate.Stopped)); vm.PID != 0 {
		t.Errorf("%+v", vm)
	}

	d.Eventually("the definition says that it was started", func() error {
		if read(t, d.Lab, "auto").BootID == "another-boot" {
			return errors.New("it does not")
		}
		return nil
	})

	// The same, but without a boot.
	d.Kill()
	endAll(t, d)
	must(t, os.RemoveAll(filepath.Join(d.RunDir(), "vms")))
	d.Start()
	until(t, d.Lab, "auto", "is stopped", is(vmstate.Stopped))
}

// outOfReach: a QEMU that cannot be reached is left alone and said, whatever the definition asks for: one whose monitor does not answer, and
// one whose record has been spoilt.
func outOfReach(t *testing.T, program string) {
	d := lab.NewDaemon(t, lab.DaemonOptions{NoTree: true, Program: program})
	for _, name := range []string{"mute", "spoilt"} {
		spec := bare(d.Lab, name)
		spec.Autostart, spec.Restart = true, vmstate.RestartOnFailure
		vm := run(t, d.Lab, spec)
		if name == "mute" {
			must(t, unix.Kill(vm.PID, unix.SIGSTOP))
		}
	}
	d.Kill()
	boot(t, d.Lab, "mute")
	boot(t, d.Lab, "spoilt")
	must(t, os.WriteFile(filepath.Join(d.RunDir(), "vms/spoilt/vm.json"), []byte("{"), 0o600))
	d.Start()
	for _, name := range []string{"mute", "spoilt"} {
		vm := until(t, d.Lab, name, "has failed", is(vmstate.Broken))
		if vm.Error == nil || vm.Error.Remedy == "" {
			t.Errorf("%+v", vm)
		}
		if _, err := d.Client.StartStoppedVM(t.Context(), name); err == nil {
			t.Errorf("%s is started", name)
		}
	}
	if pids := d.QEMUs(t); len(pids) != 2 {
		t.Errorf("processes %v live, two should", pids)
	}
	if err := d.Client.RemoveVM(t.Context(), "spoilt", true); err == nil {
		t.Error("a VM is removed whose QEMU lives, though nobody can read what it is")
	}
	endAll(t, d)
	must(t, d.Client.RemoveVM(t.Context(), "spoilt", true))
}

// restartFull: a daemon that is started on a full run directory takes its guests up, answers reads, says what is wrong and refuses the rest.
func restartFull(t *testing.T, program string) {
	dir := tmpfs(t, 16<<20)
	d := lab.NewDaemon(t, lab.DaemonOptions{Program: program, RunDir: dir})
	before := run(t, d.Lab, bare(d.Lab, "vm1"))
	free := fill(t, dir)
	d.Restart()
	if vm := until(t, d.Lab, "vm1", "runs", is(vmstate.Running)); vm.PID != before.PID {
		t.Errorf("%+v", vm)
	}
	degraded(t, d.Lab, dir)
	_, err := d.Client.Migrate(t.Context(), vmstate.MigrationSpec{VM: "vm1", Binary: d.Env.QEMU(env.Newest)}, "")
	if err == nil {
		t.Fatal("a handoff is begun that there is no room for")
	}
	exhausted(t, vmstate.ProblemOf(err), dir, "of 16 MiB")
	free()
	m, err := d.Client.Migrate(t.Context(), vmstate.MigrationSpec{VM: "vm1", Binary: d.Env.QEMU(env.Newest)}, "")
	must(t, err)
	if m, err = d.Client.Migration(t.Context(), m.ID, lab.Limit); err != nil || m.Phase != vmstate.Completed {
		t.Errorf("%+v, %v", m, err)
	}
	d.Eventually("the daemon is well again", func() error { _, err := d.Client.Health(t.Context()); return err })
}

// endAll kills the QEMUs of a lab whose daemon is dead, as the host's end does.
func endAll(t *testing.T, d *lab.Daemon) {
	t.Helper()
	for _, pid := range d.QEMUs(t) {
		kill(t, vmstate.VM{Name: "it", PID: pid})
	}
	d.Eventually("the QEMUs are gone", func() error {
		if pids := d.QEMUs(t); len(pids) > 0 {
			return fmt.Errorf("processes %v live", pids)
		}
		return nil
	})
}
