package definition_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"qlive/integration/lab"
	"qlive/vmstate"
)

// What a daemon that is killed leaves, for the next one and for doctor.
func TestDaemonKilled(t *testing.T) {
	program := lab.BuildProgram(t, "test")
	t.Run("autostart", func(t *testing.T) { autostart(t, program) })
	t.Run("doctor", func(t *testing.T) { tellAll(t, program) })
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
