package recovery_test

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"qlive/integration/env"
	"qlive/integration/lab"
	"qlive/vmstate"
)

// The daemon is killed while a handoff holds in prepared: the next one undoes it, the guest has noticed nothing, and the next handoff works.
func killedInPrepared(t *testing.T, s *scene) {
	d, vm := s.Daemon, s.vm
	id := vm.MigrateNoWait(vmstate.MigrationSpec{Binary: d.Env.QEMU(env.Newest), Hold: true})
	reach(d, t, id, vmstate.Prepared)
	if got := len(d.QEMUs(t)); got != 2 {
		t.Fatalf("%d QEMUs run", got)
	}
	d.Kill()
	vm.AwaitBeats(100)
	d.Start()
	m := vm.Wait(id)
	if m.Phase != vmstate.RolledBack || m.Error == nil || m.Spec == nil || !m.Spec.Hold {
		t.Errorf("the migration is remembered as %+v, error %+v", m, m.Error)
	}
	one(d, t)
	vm.AwaitBeats(50)
	vm.HandOver(env.Newest, "")
	vm.CheckMemory()
}

// The daemon dies at a point of the handoff at which the guest stands, and the target may hang, too. The next daemon decides where it goes on, at once.
func killedWhileTheGuestStands(t *testing.T, s *scene) {
	d, vm := s.Daemon, s.vm
	for _, tt := range []struct {
		point string
		hangs bool // the target
		end   vmstate.Phase
	}{
		{"flip.stop.after", false, vmstate.RolledBack},
		{"flip.load.after", true, vmstate.RolledBack},
		{"flip.run-target.before", false, vmstate.Completed},
		{"flip.run-target.after", false, vmstate.Completed},
		{"flip.end-source.before", false, vmstate.Completed},
	} {
		t.Run(tt.point, func(t *testing.T) {
			source := vm.Show().PID
			d.SetFailpoints(tt.point + "=kill")
			d.Kill()
			d.Start()
			id := vm.MigrateNoWait(vmstate.MigrationSpec{Binary: d.Env.QEMU(env.Newest)})
			_ = d.AwaitEnd() // by the failpoint
			if tt.hangs {
				signal(t, other(t, d, source), unix.SIGSTOP)
			}
			d.SetFailpoints("")
			began := time.Now()
			d.Start()
			m := vm.Wait(id)
			t.Logf("ready and decided %v after the start: %s", time.Since(began), m.Phase)
			if m.Phase != tt.end {
				t.Errorf("the migration is %s, want %s: %+v", m.Phase, tt.end, m.Error)
			}
			one(d, t)
			vm.AwaitBeats(50)
			vm.CheckMemory()
			if now := vm.Show(); now.Status != vmstate.Running || now.Migration != id || now.Error != nil {
				t.Errorf("the VM is %s, its migration %s, its error %+v", now.Status, now.Migration, now.Error)
			}
			vm.HandOver(env.Installed, "")
			vm.CheckTruth()
		})
	}
}

// reach waits until a migration is in a phase.
func reach(d *lab.Daemon, t *testing.T, id string, phase vmstate.Phase) {
	t.Helper()
	d.Eventually("the migration is "+string(phase), func() error {
		m, err := d.Client.Migration(t.Context(), id, 0)
		if err == nil && m.Phase != phase {
			if m.Phase.Ended() {
				t.Fatalf("migration %s is %s: %+v", id, m.Phase, m.Error)
			}
			err = vmstate.Errorf(vmstate.Timeout, "it is %s", m.Phase)
		}
		return err
	})
}

// one waits until one QEMU is left.
func one(d *lab.Daemon, t *testing.T) {
	t.Helper()
	d.Eventually("one QEMU is left", func() error {
		if pids := d.QEMUs(t); len(pids) != 1 {
			return vmstate.Errorf(vmstate.Timeout, "there are %v", pids)
		}
		return nil
	})
}
