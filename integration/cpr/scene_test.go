package cpr_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"qlive/daemon"
	"qlive/integration/env"
	"qlive/integration/guest"
	"qlive/integration/lab"
	"qlive/internal/failpoint"
	"qlive/vmstate"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// machine is one that was started for cpr-transfer.
const machine = "pc-q35-7.2,aux-ram-share=on"

// spec is a guest with memory beside its RAM: video memory, option ROMs.
func spec(version string) lab.Spec {
	return lab.Spec{
		QEMU: version, Machine: machine, Guest: guest.Params{FillMiB: 16, DirtyMiB: 2, VerifySecs: -1},
		Args: []string{"-device", "VGA", "-netdev", "user,id=net0", "-device", "virtio-net-pci,netdev=net0,addr=5"},
	}
}

// wide is one with two CPUs and two NUMA nodes, each of a memory backend of its own, on huge pages.
func wide(version string) lab.Spec {
	s := spec(version)
	s.CPUs, s.NoRAM, s.Memory = 2, true, vmstate.MemorySpec{Backing: vmstate.Hugetlb}
	s.Args = append(s.Args, "-m", "256", "-object", "memory-backend-ram,id=near,size=128M", "-object", "memory-backend-memfd,id=far,size=128M",
		"-numa", "node,memdev=near,cpus=0", "-numa", "node,memdev=far,cpus=1")
	return s
}

// scene is a daemon within the test, whose failpoints it arms.
type scene struct {
	*lab.Lab
	vm     *lab.VM
	points *failpoint.Set
}

func newScene(t *testing.T) *scene { return newSceneFor(t, "") }

// newSceneFor is one whose QEMUs run as a user.
func newSceneFor(t *testing.T, user string) *scene {
	t.Helper()
	points, err := failpoint.New("")
	if err != nil {
		t.Fatal(err)
	}
	e, err := env.Locate()
	if err != nil {
		t.Fatal(err)
	}
	return &scene{Lab: lab.New(t, lab.Options{
		Failpoints: points, MonitorLimit: 8 * time.Second, Allowed: []string{e.Cache + "/qemu/*/qemu-system-x86_64"},
		Configure: func(c *daemon.Config) { c.User = user },
	}), points: points}
}

// cpr is the request for a handoff in mode cpr. The pause may be long: hosts are busy.
func (s *scene) cpr(version string) vmstate.MigrationSpec {
	return vmstate.MigrationSpec{VM: s.vm.Name, Binary: s.Env.QEMU(version), Mode: vmstate.ModeCPR, MaxPauseMS: 20_000}
}

// hand hands the guest over in mode cpr, and looks at how it is afterwards.
func (s *scene) hand(t *testing.T, version string) vmstate.Migration {
	t.Helper()
	before := s.vm.Show()
	m := s.vm.Migrate(s.cpr(version))
	if m.Phase != vmstate.Completed || m.Mode != vmstate.ModeCPR || m.PauseUS == nil || m.QEMUPause == nil {
		t.Fatalf("to %s: %+v\nerror %+v", version, m, m.Error)
	}
	s.vm.AwaitBeats(20)
	s.vm.CheckMemory()
	after := s.vm.Show()
	if after.QEMU.Version != version || after.PID == before.PID || after.Status != vmstate.Running {
		t.Errorf("the guest is %s in QEMU %s, pid %d", after.Status, after.QEMU.Version, after.PID)
	}
	for i, r := range after.Regions {
		if r.Inode != before.Regions[i].Inode {
			t.Errorf("RAM block %s has moved from inode %d to %d", r.Name, before.Regions[i].Inode, r.Inode)
		}
	}
	t.Logf("from %s to %s: pause %d µs", before.QEMU.Version, version, *m.PauseUS)
	return m
}

// undone tries a handoff in mode cpr that must be undone for a reason.
func (s *scene) undone(t *testing.T, spec vmstate.MigrationSpec, says string) {
	t.Helper()
	before := s.vm.Show()
	m := s.vm.Migrate(spec)
	s.sameAs(t, before, m, says)
}

// sameAs makes sure that the guest goes on in the source, and that no other QEMU is left.
func (s *scene) sameAs(t *testing.T, before vmstate.VM, m vmstate.Migration, says string) {
	t.Helper()
	if m.Phase != vmstate.RolledBack && m.Phase != vmstate.Aborted || m.Error == nil || !strings.Contains(m.Error.Detail+strings.Join(m.Error.QEMU, " "), says) {
		t.Fatalf("the handoff is %s, want it undone for %q: %+v", m.Phase, says, m.Error)
	}
	s.vm.AwaitBeats(20)
	s.vm.CheckTruth()
	if after := s.vm.Show(); after.PID != before.PID || after.Status != vmstate.Running {
		t.Errorf("the guest is %s in pid %d, it was in %d", after.Status, after.PID, before.PID)
	}
	s.one(t)
}

func (s *scene) one(t *testing.T) {
	t.Helper()
	s.Eventually("one QEMU is left", func() error {
		if pids := s.QEMUs(t); len(pids) != 1 {
			return fmt.Errorf("there are %v", pids)
		}
		return nil
	})
}

// at does something once a point is reached, in this test.
func (s *scene) at(t *testing.T, point string, f func() error) {
	s.points.Func(point, f)
	t.Cleanup(func() { s.points.Func(point, nil) })
}

// strike sends a signal to the target of the handoff under way, and waits for its effect.
func (s *scene) strike(t *testing.T, sig unix.Signal) error {
	m, err := s.Client.Migration(t.Context(), s.vm.Show().Migration, 0)
	if err != nil {
		return err
	}
	return strike(m.To.PID, sig)
}
