package recovery_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"qlive/integration/lab"
	"qlive/vmstate"
)

// The daemon dies after somebody has asked for the end of a VM and before that is there. The next one brings it about: a VM that was to be removed is, with its
// definition, one that was to be stopped has not failed, and neither is started anew.
func TestEndingIsFinished(t *testing.T) {
	d := lab.NewDaemon(t, lab.DaemonOptions{NoTree: true})
	for _, tt := range []struct {
		name   string
		points string
		ask    func(ctx context.Context, vm string) error // for the end
		after  func(vm string)                            // once the daemon is there again
		gone   bool
	}{
		{name: "rm --force", points: "daemon.kill=kill", gone: true,
			ask: func(_ context.Context, vm string) error { _, err := d.Qlive("rm", "--force", vm); return err }},
		{name: "stop --force", points: "daemon.kill=kill",
			ask: func(_ context.Context, vm string) error { _, err := d.Qlive("stop", "--force", vm); return err }},
		{name: "powers off between the daemons", gone: true,
			ask: func(ctx context.Context, vm string) error {
				err := d.Client.RemoveVM(ctx, vm, false)
				d.Kill()
				powerOff(t, d, vm)
				d.Eventually("no QEMU is left", func() error { return none(d, t) })
				return err
			}},
		{name: "powers off later", gone: true,
			ask: func(ctx context.Context, vm string) error {
				err := d.Client.RemoveVM(ctx, vm, false)
				d.Kill()
				return err
			},
			after: func(vm string) { powerOff(t, d, vm) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d.SetFailpoints(tt.points)
			d.Restart()
			start := d.Boot
			if tt.points != "" {
				start = d.Lab.Start
			}
			vm := start(lab.Spec{Guest: small(), Bare: tt.points != "", Restart: vmstate.RestartOnFailure})
			ctx, cancel := context.WithTimeout(t.Context(), lab.Limit)
			defer cancel()
			if err := tt.ask(ctx, vm.Name); (err != nil) != (tt.points != "") {
				t.Fatalf("asking for the end: %v", err)
			}
			_ = d.AwaitEnd()
			d.SetFailpoints("")
			d.Start()
			if tt.after != nil {
				if v := vm.Show(); v.Status != vmstate.Running {
					t.Errorf("the VM is %s", v.Status)
				}
				tt.after(vm.Name)
			}
			d.Eventually("the end is there", func() error {
				v, err := d.Client.VM(t.Context(), vm.Name)
				switch {
				case tt.gone && vmstate.KindOf(err) == vmstate.NotFound:
					return none(d, t)
				case err == nil && !tt.gone && v.Status == vmstate.Stopped && v.Error == nil && v.Restarts == 0 && v.RestartAt == nil:
					return none(d, t)
				}
				return vmstate.Errorf(vmstate.Timeout, "the VM is %+v, %v", v, err)
			})
			definition := filepath.Join(d.Dir, "state/vms", vm.Name+".json")
			if _, err := os.Stat(definition); os.IsNotExist(err) != tt.gone {
				t.Errorf("the definition: %v", err)
			}
			if !tt.gone {
				if again, err := d.Client.StartStoppedVM(t.Context(), vm.Name); err != nil || again.Status != vmstate.Running {
					t.Errorf("started again it is %s, %v", again.Status, err)
				}
				if err := d.Client.RemoveVM(t.Context(), vm.Name, true); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// powerOff tells the guest to power off, whether there is a daemon or not.
func powerOff(t *testing.T, d *lab.Daemon, vm string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(d.RunDir(), "vms", vm, "g0/console.in"), []byte("poweroff\n"), 0); err != nil {
		t.Fatal(err)
	}
}

// none is nil if there is no QEMU.
func none(d *lab.Daemon, t *testing.T) error {
	if pids := d.QEMUs(t); len(pids) > 0 {
		return vmstate.Errorf(vmstate.Timeout, "there are QEMUs %v", pids)
	}
	return nil
}
