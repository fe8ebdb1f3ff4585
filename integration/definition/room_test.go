package definition_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"qlive/integration/env"
	"qlive/integration/lab"
	"qlive/internal/definition"
	"qlive/internal/failpoint"
	"qlive/vmstate"
)

// degraded checks that the daemon answers reads and says what is wrong.
func degraded(t *testing.T, l *lab.Lab, words string) {
	t.Helper()
	_, err := l.Client.Health(t.Context())
	if vmstate.KindOf(err) != vmstate.Unavailable || !strings.Contains(err.Error(), words) || !strings.Contains(err.Error(), "are free") {
		t.Errorf("the health is %v, and should be about %s", err, words)
	}
	must(t, l.Client.Ready(t.Context()))
	if vms, err := l.Client.VMs(t.Context()); err != nil || len(vms) != 1 {
		t.Errorf("%+v, %v", vms, err)
	}
	if got := l.Cat("health"); !strings.HasPrefix(got, "degraded\n") || !strings.Contains(got, words) {
		t.Errorf("the tree's health is %q", got)
	}
}

// A state directory without room: new VMs are refused, with the numbers, before anything is started; the ones that run go on, and
// are handed over, and what could not be written is written when there is room.
func TestFullStateDirectory(t *testing.T) {
	state := tmpfs(t, 1<<20)
	l := lab.New(t, lab.Options{StateDir: state})
	run(t, l, bare(l, "vm1"))
	free := fill(t, state)
	_, err := l.Client.StartVM(t.Context(), bare(l, "vm2"))
	if err == nil {
		t.Fatal("a VM is started whose definition cannot be kept")
	}
	exhausted(t, vmstate.ProblemOf(err), "cannot keep the definition of vm2", "of 1 MiB")
	if pids := l.QEMUs(t); len(pids) != 1 {
		t.Errorf("processes %v live", pids)
	}
	degraded(t, l, state)
	m, err := l.Client.Migrate(t.Context(), vmstate.MigrationSpec{VM: "vm1", Binary: l.Env.QEMU(env.Newest)}, "")
	must(t, err)
	if m, err = l.Client.Migration(t.Context(), m.ID, lab.Limit); err != nil || m.Phase != vmstate.Completed {
		t.Fatalf("%+v, %v", m, err)
	}
	l.Eventually("the daemon says what it could not write", func() error {
		if _, err := l.Client.Health(t.Context()); err == nil || !strings.Contains(err.Error(), "cannot keep the definition of vm1") {
			return err
		}
		return nil
	})
	free()
	l.Eventually("the daemon is well again", func() error { _, err := l.Client.Health(t.Context()); return err })
	if d, _, err := definition.Read(filepath.Join(definition.Dir(state), "vm1.json")); err != nil || d.Spec.Binary != l.Env.QEMU(env.Newest) {
		t.Errorf("%+v, %v", d, err)
	}
	run(t, l, bare(l, "vm2"))
}

// A run directory without room: what would be begun is refused, with the numbers; a handoff that is under way is rolled back, and the
// guest never notices.
func TestFullRunDirectory(t *testing.T) {
	dir := tmpfs(t, 16<<20)
	points, err := failpoint.New("")
	must(t, err)
	l := lab.New(t, lab.Options{RunDir: dir, Failpoints: points})
	vm := l.Boot(lab.Spec{Guest: small()})
	pid := vm.Show().PID
	var free func()
	for _, step := range []string{"send-ahead", "start-target"} {
		if free != nil {
			free()
		}
		points.Func("flip."+step+".before", func() error { free = fill(t, dir); return nil })
		m := vm.Migrate(vmstate.MigrationSpec{Binary: l.Env.QEMU(env.Newest)})
		if m.Phase != vmstate.RolledBack {
			t.Fatalf("without room in %s it is %s: %+v", step, m.Phase, m.Error)
		}
		exhausted(t, m.Error, dir, "of 16 MiB")
		must(t, points.Arm("flip."+step+".before", "off"))
	}

	_, err = l.Client.Migrate(t.Context(), vmstate.MigrationSpec{VM: "vm1", Binary: l.Env.QEMU(env.Newest)}, "")
	if err == nil {
		t.Fatal("a handoff is begun that there is no room for")
	}
	exhausted(t, vmstate.ProblemOf(err), "cannot hand over vm1", dir, "of 16 MiB", "2 MiB and 64 files are needed")
	if _, err = l.Client.StartVM(t.Context(), bare(l, "vm2")); err == nil {
		t.Fatal("a VM is started that there is no room for")
	}
	exhausted(t, vmstate.ProblemOf(err), "cannot start vm2", dir, "of 16 MiB")
	degraded(t, l, dir)
	if got := vm.Show(); got.PID != pid || got.Status != vmstate.Running {
		t.Errorf("%+v", got)
	}
	if pids := l.QEMUs(t); len(pids) != 1 {
		t.Errorf("processes %v live", pids)
	}
	free()
	// What a handoff needs from when it is prepared has been set aside: it is completed where nothing is left.
	points.Func("flip.switch.before", func() error { free = fill(t, dir); return nil })
	if m := vm.Migrate(vmstate.MigrationSpec{Binary: l.Env.QEMU(env.Newest)}); m.Phase != vmstate.Completed && m.Phase != vmstate.RolledBack {
		t.Errorf("it is %s: %+v", m.Phase, m.Error)
	}
	must(t, points.Arm("flip.switch.before", "off"))
	free()
	vm.HandOver(env.Backport, "")
	l.Eventually("the daemon is well again", func() error {
		if _, err := l.Client.Health(t.Context()); err != nil {
			return fmt.Errorf("it says: %w", err)
		}
		return nil
	})
	// What the guest said meanwhile had no room; what it holds in memory is whole.
	before := vm.Report().Mems
	vm.Type("verify")
	l.Eventually("the guest has verified its memory", func() error {
		if r := vm.Report(); r.Mems == before || r.BadMems > 0 {
			return fmt.Errorf("%d verifications, %d of them bad", r.Mems, r.BadMems)
		}
		return nil
	})
}
