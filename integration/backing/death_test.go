package backing_test

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"qlive/integration/env"
	"qlive/integration/lab"
	"qlive/internal/failpoint"
	"qlive/internal/proc"
	"qlive/vmstate"
)

// hugePages is what the guest is moved into.
func hugePages(l *lab.Lab) vmstate.MigrationSpec {
	return vmstate.MigrationSpec{Binary: l.Env.QEMU(env.Newest), Memory: &vmstate.MemorySpec{Backing: vmstate.Hugetlb, PageBytes: 2 * mib}, MaxPauseMS: 60_000}
}

// One of the two QEMUs is killed as part of the guest is here and part there. Without the target everything is moved back; the source is not needed any more, since
// its devices are saved.
func TestQEMUKilledInTheMiddle(t *testing.T) {
	wantPool(t, 128)
	points, err := failpoint.New("")
	if err != nil {
		t.Fatal(err)
	}
	l := lab.New(t, lab.Options{NoTree: true, Failpoints: points})
	vm := l.Boot(lab.Spec{Guest: small()})
	for _, tt := range []struct {
		who string
		end vmstate.Phase
	}{{"target", vmstate.RolledBack}, {"source", vmstate.Completed}} {
		t.Run(tt.who, func(t *testing.T) {
			var hits atomic.Int64
			points.Func("flip.move-chunk.noted", func() error {
				if hits.Add(1) != 4 {
					return nil
				}
				m, _ := l.Client.Migration(t.Context(), vm.Show().Migration, 0)
				pid := m.To.PID
				if tt.who == "source" {
					pid = m.From.PID
				}
				return unix.Kill(pid, unix.SIGKILL)
			})
			m := vm.Migrate(hugePages(l))
			if m.Phase != tt.end {
				t.Fatalf("%s: %+v\nlog: %+v", m.Phase, m.Error, m.Log)
			}
			if want := map[string]vmstate.Backing{"target": vmstate.Memfd, "source": vmstate.Hugetlb}[tt.who]; vm.Show().Regions[0].Backing != want {
				t.Errorf("the RAM is %+v", vm.Show().Regions)
			}
			vm.AwaitBeats(50)
			vm.CheckMemory()
			if err := nothingMoved(l.RunDir()); err != nil {
				t.Error(err)
			}
		})
	}
}

// What was moved cannot be moved back. Nobody lets the guest run then; a person who has made room has it moved back, and nothing is lost.
func TestNotMovedBack(t *testing.T) {
	wantPool(t, 128)
	points, err := failpoint.New("")
	if err != nil {
		t.Fatal(err)
	}
	l := lab.New(t, lab.Options{NoTree: true, Failpoints: points})
	vm := l.Boot(lab.Spec{Guest: small()})
	var hits atomic.Int64
	full := errors.New("no space")
	points.Func("flip.move-chunk.copied", func() error {
		if hits.Add(1) > 4 {
			return full
		}
		return nil
	})
	m := vm.Migrate(hugePages(l))
	if m.Phase != vmstate.Failed || m.Error == nil || m.Error.Kind() != vmstate.Lost {
		t.Fatalf("%s: %+v", m.Phase, m.Error)
	}
	t.Log(m.Error.Detail, m.Error.Remedy)
	if _, err := l.Client.Resume(t.Context(), vm.Name); err == nil {
		t.Error("the guest was let run on half of its memory")
	}
	points.Func("flip.move-chunk.copied", func() error { return nil })
	if now, err := l.Client.Resolve(t.Context(), vm.Name, "source"); err != nil || now.Status != vmstate.Running {
		t.Fatalf("%+v, %v", now, err)
	}
	vm.AwaitBeats(50)
	vm.CheckMemory()
	is(t, vm.Show(), vmstate.Memfd, 4096)
	if err := nothingMoved(l.RunDir()); err != nil {
		t.Error(err)
	}
	if m := vm.Migrate(hugePages(l)); m.Phase != vmstate.Completed {
		t.Fatalf("%s: %+v", m.Phase, m.Error)
	}
	vm.CheckMemory()
}

// The daemon is killed at any point of the move, and the next one in the middle of moving back: the one after that has the guest whole. Where the target had been
// told to run the guest stays on its new memory, which that daemon knows for the guest's.
func TestDaemonKilledInTheMiddle(t *testing.T) {
	wantPool(t, 256)
	d := lab.NewDaemon(t, lab.DaemonOptions{NoTree: true})
	vm := d.Boot(lab.Spec{Guest: small()})
	memory := vmstate.MemorySpec{Backing: vmstate.Hugetlb, PageBytes: 2 * mib}
	for _, tt := range []struct {
		name, points, again string
		target              bool // is killed as well
		end                 vmstate.Phase
	}{
		{name: "copied", points: "flip.move-chunk.copied=3*off->kill", end: vmstate.RolledBack},
		{name: "noted, and again", points: "flip.move-chunk.noted=9*off->kill", again: "flip.move-chunk.noted=2*off->kill", end: vmstate.RolledBack},
		{name: "freed, and the target", points: "flip.move-chunk.freed=5*off->stop", target: true, end: vmstate.RolledBack},
		{name: "all is moved", points: "flip.load.after=kill", end: vmstate.RolledBack},
		{name: "the target runs", points: "flip.end-source.before=kill", end: vmstate.Completed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d.SetFailpoints(tt.points)
			d.Kill()
			d.Start()
			spec := vmstate.MigrationSpec{Binary: d.Env.QEMU(env.Newest), Memory: &memory, MaxPauseMS: 60_000}
			id := vm.MigrateNoWait(spec)
			if tt.target {
				killTarget(d, t)
			} else {
				_ = d.AwaitEnd() // by the failpoint
			}
			if tt.again != "" {
				d.SetFailpoints(tt.again)
				d.Launch()
				_ = d.AwaitEnd()
			}
			d.SetFailpoints("")
			d.Start()
			m := vm.Wait(id)
			if m.Phase != tt.end {
				t.Fatalf("%s: %+v\nlog: %+v", m.Phase, m.Error, m.Log)
			}
			vm.AwaitBeats(50)
			vm.CheckMemory()
			if err := nothingMoved(d.RunDir()); err != nil {
				t.Error(err)
			}
			if tt.end == vmstate.RolledBack {
				is(t, vm.Show(), vmstate.Memfd, 4096)
			} else {
				is(t, vm.Show(), vmstate.Hugetlb, 2*mib)
			}
		})
	}
	d.Kill() // what the last one has learnt is written down
	d.Start()
	is(t, vm.Show(), vmstate.Hugetlb, 2*mib)
	vm.HandOver(env.Installed, "")
	vm.CheckMemory()

	// It can neither go on nor be taken back, and then the daemon dies, too: what was moved is still held by the source.
	d.SetFailpoints("flip.move-chunk.copied=4*off->error(no space)")
	d.Kill()
	d.Start()
	back := vmstate.MemorySpec{Backing: vmstate.Memfd}
	if m := vm.Migrate(vmstate.MigrationSpec{Binary: d.Env.QEMU(env.Newest), Memory: &back, MaxPauseMS: 60_000}); m.Phase != vmstate.Failed {
		t.Fatalf("%s: %+v", m.Phase, m.Error)
	}
	d.SetFailpoints("")
	d.Kill()
	d.Start()
	if now, err := d.Client.Resolve(t.Context(), vm.Name, "source"); err != nil || now.Status != vmstate.Running {
		t.Fatalf("%+v, %v", now, err)
	}
	vm.AwaitBeats(50)
	vm.CheckMemory()
	is(t, vm.Show(), vmstate.Hugetlb, 2*mib)
	daemonAndSource(t, d, vm, back)
}

// daemonAndSource kills both in the middle of a move: what the guest's devices were was in the two, so that it is lost as in any handoff. The next daemon
// says why, lets nobody run, and keeps both halves until somebody has discarded them.
func daemonAndSource(t *testing.T, d *lab.Daemon, vm *lab.VM, to vmstate.MemorySpec) {
	t.Helper()
	d.SetFailpoints("flip.move-chunk.freed=3*off->stop")
	d.Kill()
	d.Start()
	id := vm.MigrateNoWait(vmstate.MigrationSpec{Binary: d.Env.QEMU(env.Newest), Memory: &to, MaxPauseMS: 60_000})
	killOne(d, t, func(older, _ int) int { return older })
	d.SetFailpoints("")
	d.Start()
	m := vm.Wait(id)
	if m.Phase != vmstate.Failed || m.Error == nil || m.Error.Kind() != vmstate.Lost {
		t.Fatalf("%s: %+v\nlog: %+v", m.Phase, m.Error, m.Log)
	}
	for _, words := range []string{"the daemon ended while it was switching", "the source was found dead", "both QEMUs are dead"} {
		if text := m.Error.Detail; !strings.Contains(text, words) {
			t.Errorf("%q is not in %q", words, text)
		}
	}
	t.Log(m.Error.Detail, "→", m.Error.Remedy)
	if now := vm.Show(); now.Status != vmstate.Broken {
		t.Errorf("the guest is %s", now.Status)
	}
	if pids := d.QEMUs(t); len(pids) > 0 {
		t.Errorf("%v are left", pids)
	}
}

// killTarget waits until the daemon has stopped itself, kills the younger of the two QEMUs, and then the daemon.
func killTarget(d *lab.Daemon, t *testing.T) {
	t.Helper()
	killOne(d, t, func(_, younger int) int { return younger })
}

// killOne does so with one of them.
func killOne(d *lab.Daemon, t *testing.T, which func(older, younger int) int) {
	t.Helper()
	d.Eventually("the daemon has stopped", func() error {
		stat, err := proc.ReadStat(d.PID())
		if err == nil && stat.State != 'T' {
			err = fmt.Errorf("it is %c", stat.State)
		}
		return err
	})
	pids := d.QEMUs(t)
	if len(pids) != 2 {
		t.Fatalf("the QEMUs are %v", pids)
	}
	if err := unix.Kill(which(min(pids[0], pids[1]), max(pids[0], pids[1])), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	d.Kill()
}
