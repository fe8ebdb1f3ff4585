package recovery_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"qlive/integration/env"
	"qlive/integration/lab"
	"qlive/internal/proc"
	"qlive/restapi/client"
	"qlive/vmstate"
)

// SIGTERM undoes what is in flight before the daemon ends, and leaves the guest running. A new binary of the daemon takes it up; numbers of events, the ids of
// migrations, idempotency keys and the user's own socket go on.
func upgradeOfTheDaemon(t *testing.T, s *scene) {
	spec := vmstate.MigrationSpec{VM: s.vm.Name, Binary: s.Env.QEMU(env.Newest), Hold: true}
	m, err := s.Client.Migrate(t.Context(), spec, "my key")
	if err != nil {
		t.Fatal(err)
	}
	reach(s.Daemon, t, m.ID, vmstate.Prepared)
	seen := lastEvent(t, s.Daemon, 0)
	s.Terminate()
	one(s.Daemon, t)
	s.vm.AwaitBeats(100)

	s.Program = s.next
	s.Start()
	if v, err := s.Client.Version(t.Context()); err != nil || v.Version != "next" {
		t.Errorf("the daemon is %+v, %v", v, err)
	}
	if again := s.vm.Wait(m.ID); again.Phase != vmstate.Aborted && again.Phase != vmstate.RolledBack {
		t.Errorf("the migration that was in flight is %s", again.Phase)
	}
	if again, err := s.Client.Migrate(t.Context(), spec, "my key"); err != nil || again.ID != m.ID {
		t.Errorf("the key gave %s first, and after the restart %s, %v", m.ID, again.ID, err)
	}
	if now := lastEvent(t, s.Daemon, seen.Seq); now.Seq <= seen.Seq || now.Type == vmstate.EventReset && now.Seq < seen.Seq {
		t.Errorf("the events were at %d before the restart, and are at %d", seen.Seq, now.Seq)
	}
	s.vm.HandOver(env.Newest, "")
	if to, err := os.Readlink(s.public); err != nil || !strings.Contains(to, "/g2/") {
		t.Errorf("the user's socket leads to %q, %v", to, err)
	}
	s.vm.CheckMemory()
}

// SIGTERM while the guest is being switched over: the handoff goes to an end before the daemon does. It is undone if the guest did not stand yet.
func terminatedInSwitching(t *testing.T, s *scene) {
	s.SetFailpoints("flip.load.before=1*delay(400ms)")
	s.Restart()
	id := s.vm.MigrateNoWait(vmstate.MigrationSpec{Binary: s.Env.QEMU(env.Newest), MaxPauseMS: 20_000})
	reach(s.Daemon, t, id, vmstate.Switching)
	s.Terminate()
	one(s.Daemon, t)
	s.Start()
	m := s.vm.Wait(id)
	has := map[vmstate.Phase]int{vmstate.Completed: m.To.PID, vmstate.RolledBack: m.From.PID}[m.Phase]
	if v := s.vm.Show(); v.PID != has || v.Status != vmstate.Running || (m.PauseUS == nil) != (m.Phase == vmstate.RolledBack) {
		t.Errorf("the VM is %s, pid %d; the migration is remembered as %+v, error %+v", v.Status, v.PID, m, m.Error)
	}
	s.vm.CheckMemory()
}

// lastEvent is the first event after number after that comes.
func lastEvent(t *testing.T, d *lab.Daemon, after uint64) vmstate.Event {
	t.Helper()
	for e, err := range d.Client.Events(t.Context(), client.Watch{After: after}) {
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	t.Fatal("no event")
	return vmstate.Event{}
}

// What became of a QEMU while no daemon looked is said: one that was killed, one whose guest has powered off.
func TestQEMUEndsUnseen(t *testing.T) {
	d := lab.NewDaemon(t, lab.DaemonOptions{NoTree: true})
	for _, tt := range []struct {
		name   string
		bare   bool // it need not hear anything
		end    func(t *testing.T, pid int)
		status vmstate.Status
		says   string
	}{
		{"killed", true, func(t *testing.T, pid int) { signal(t, pid, unix.SIGKILL) }, vmstate.Broken, "was killed or crashed while no daemon was watching"},
		{"powered off", false, func(t *testing.T, _ int) { powerOff(t, d, "vm1") }, vmstate.Stopped, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			start := d.Boot
			if tt.bare {
				start = d.Lab.Start
			}
			vm := start(lab.Spec{Guest: small(), Bare: tt.bare})
			pid := vm.Show().PID
			d.Kill()
			tt.end(t, pid)
			d.Eventually("the QEMU is gone", func() error {
				if stat, err := proc.ReadStat(pid); err == nil && !stat.Ended() {
					return vmstate.Errorf(vmstate.Timeout, "it is there, in state %c", stat.State)
				}
				return nil
			})
			d.Start()
			v := vm.Show()
			if v.Status != tt.status || v.PID != 0 || (v.Error == nil) != (tt.says == "") || v.Error != nil && !strings.Contains(v.Error.Detail, tt.says) {
				t.Errorf("the VM is %s, pid %d, %+v", v.Status, v.PID, v.Error)
			}
			if err := d.Client.RemoveVM(t.Context(), vm.Name, true); err != nil {
				t.Error(err)
			}
		})
	}
}

// A QEMU that hangs while it is taken up keeps the daemon from nothing, and its VM is as before once it goes on.
func qemuHangs(t *testing.T, s *scene) {
	d, vm := s.Daemon, s.vm
	pid := vm.Show().PID
	d.Kill()
	signal(t, pid, unix.SIGSTOP)
	began := time.Now()
	d.Start()
	t.Logf("ready after %v", time.Since(began))
	v := vm.Show()
	if v.Status != vmstate.Broken || v.PID != pid || v.Error == nil || !strings.Contains(v.Error.Detail, "does not answer") {
		t.Errorf("the VM is %s, pid %d, %+v", v.Status, v.PID, v.Error)
	}
	if _, err := d.Client.Pause(t.Context(), vm.Name); err == nil {
		t.Error("a VM that does not answer can be paused")
	}
	if _, err := d.Client.Migrate(t.Context(), vmstate.MigrationSpec{VM: vm.Name, Binary: d.Env.QEMU(env.Newest)}, ""); err == nil {
		t.Error("a VM that does not answer can be handed over")
	}
	signal(t, pid, unix.SIGCONT)
	d.Eventually("the VM is as before", func() error {
		if v := vm.Show(); v.Status != vmstate.Running || v.Error != nil {
			return vmstate.Errorf(vmstate.Timeout, "it is %s, %+v", v.Status, v.Error)
		}
		return nil
	})
	vm.HandOver(env.Newest, "")
	vm.CheckMemory()
}

// A folder that cannot be read concerns its VM alone; nothing is removed, and its QEMU runs on.
func TestUnreadableFolder(t *testing.T) {
	d := lab.NewDaemon(t, lab.DaemonOptions{NoTree: true})
	good, bad := d.Lab.Start(lab.Spec{Name: "good", Guest: small()}), d.Lab.Start(lab.Spec{Name: "bad", Guest: small()})
	for _, vm := range []*lab.VM{good, bad} {
		vm.AwaitBoots(1)
	}
	d.Kill()
	record := filepath.Join(d.RunDir(), "vms/bad/vm.json")
	text, err := os.ReadFile(record)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(record, text[:len(text)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	d.Start()
	if v := bad.Show(); v.Status != vmstate.Broken || v.Error == nil || !strings.Contains(v.Error.Detail, record) {
		t.Errorf("the VM is %s, %+v", v.Status, v.Error)
	}
	if err := d.Client.RemoveVM(t.Context(), "bad", true); err == nil {
		t.Error("a VM that nobody can read, whose QEMU runs, was removed")
	}
	bad.AwaitBeats(50)
	good.HandOver(env.Newest, "")
	good.CheckMemory()

	// With the record as it was the VM is there again.
	d.Kill()
	if err := os.WriteFile(record, text, 0o600); err != nil {
		t.Fatal(err)
	}
	d.Start()
	bad.CheckMemory()
	if v := bad.Show(); v.Status != vmstate.Running || v.Error != nil {
		t.Errorf("the VM is %s, %+v", v.Status, v.Error)
	}
}

// A second daemon on the same run directory is refused, and does no harm.
func TestSecondDaemon(t *testing.T) {
	d := lab.NewDaemon(t, lab.DaemonOptions{NoTree: true})
	out, err := d.Qlive("daemon", "--socket", d.Socket+"2", "--mount", "none", "--run-dir", d.RunDir(), "--state-dir", d.Dir+"/state2")
	if err == nil || !strings.Contains(out, "another qlive daemon has it") {
		t.Errorf("%v: %s", err, out)
	}
	if err := d.Client.Ready(t.Context()); err != nil {
		t.Error(err)
	}
}

func signal(t *testing.T, pid int, sig unix.Signal) {
	t.Helper()
	if err := unix.Kill(pid, sig); err != nil {
		t.Fatal(err)
	}
}
