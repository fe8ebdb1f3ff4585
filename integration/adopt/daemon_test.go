package adopt_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"qlive/integration/env"
	"qlive/integration/lab"
	"qlive/vmstate"
)

// An adopted VM outlives the daemon.
func TestDaemon(t *testing.T) {
	program := lab.BuildProgram(t, "test")
	t.Run("started again", func(t *testing.T) { startedAgain(t, program) })
	t.Run("hands on what it holds", func(t *testing.T) { handedOn(t, program) })
	t.Run("dies in the move", func(t *testing.T) { diesInTheMove(t, program) })
}

// startedAgain: the VM is found again, is what it was, and is handed over by the daemon that comes next.
func startedAgain(t *testing.T, program string) {
	d := lab.NewDaemon(t, lab.DaemonOptions{Program: program})
	file := ram(t, 64*mib)
	s := start(t, d.Lab, env.Installed, firmware("-machine", "memory-backend=ram0", "-object", "memory-backend-file,share=on,id=ram0,size=64M,mem-path="+file, "-name", "theirs,debug-threads=on")...).up()
	s.pin()
	around := s.amid(s.pid())
	private := start(t, d.Lab, env.Installed, firmware()...).up()
	was := s.adopt("vm1")
	private.adopt("vm2")
	if out, err := d.Qlive("pause", "vm1"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	d.Restart()
	is, err := d.Client.VM(t.Context(), "vm1")
	if err != nil {
		t.Fatal(err)
	}
	if is.PID != s.pid() || is.Status != vmstate.Paused || is.Adoption == nil || is.RAMBytes != was.RAMBytes || len(is.Regions) != 1 || is.Regions[0].Inode != was.Regions[0].Inode {
		t.Errorf("it was %+v\nand is %+v", was, is)
	}
	if backing := d.Cat("vm1", "regions", "ram0", "backing"); backing != "file" {
		t.Errorf("the tree shows %s", backing)
	}
	if other, err := d.Client.VM(t.Context(), "vm2"); err != nil || other.Status != vmstate.Running || len(other.Regions) != 1 || other.RAMBytes != 64*mib {
		t.Errorf("the other is %+v, %v", other, err)
	}
	s.handOver(vmstate.MigrationSpec{VM: "vm1", Binary: d.Env.QEMU(env.Backport)}) // paused as it is
	<-s.ended
	if is, err = d.Client.VM(t.Context(), "vm1"); err != nil {
		t.Fatal(err)
	}
	checkAmid(t, around, s.amid(is.PID))
	d.Restart()
	if is, err = d.Client.VM(t.Context(), "vm1"); err != nil || is.Status != vmstate.Paused || is.Adoption != nil || is.Generation != 1 || is.Regions[0].Inode != was.Regions[0].Inode {
		t.Errorf("after the handoff it is %+v, %v", is, err)
	}
	if out, err := d.Qlive("rm", "--force", "vm1", "vm2"); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	<-private.ended
}

// diesInTheMove: the daemon dies while private RAM is moved. Before the switch the guest stays where it was, and can be moved after all; behind it the next
// daemon waits for the rest, and the guest is in memory of qlive's.
func diesInTheMove(t *testing.T, program string) {
	d := lab.NewDaemon(t, lab.DaemonOptions{Program: program, NoTree: true, Failpoints: "flip.send-ahead.after=kill"})
	s := start(t, d.Lab, env.Installed, linux(d.Lab, "-m", "256", "-machine", "pc-q35-7.2")...).up()
	s.awaitTruth(20)
	s.adopt("vm1")
	move := func(points string) (string, vmstate.VM) {
		t.Helper()
		m, err := d.Client.Migrate(t.Context(), vmstate.MigrationSpec{VM: "vm1", Binary: d.Env.QEMU(env.Backport), Mode: vmstate.ModePostcopy}, "")
		if err != nil {
			t.Fatal(err)
		}
		_ = d.AwaitEnd() // by the failpoint
		d.SetFailpoints(points)
		d.Start()
		vm, err := d.Client.VM(t.Context(), "vm1")
		if err != nil {
			t.Fatal(err)
		}
		return m.ID, vm
	}
	id, vm := move("flip.receive.before=kill")
	if m, err := d.Client.Migration(t.Context(), id, lab.Limit); err != nil || m.Phase != vmstate.RolledBack {
		t.Errorf("the first move is %s, %v", m.Phase, err)
	}
	if vm.PID != s.pid() || vm.Adoption == nil || vm.Status != vmstate.Running || len(vm.Regions) != 1 || vm.Regions[0].Backing != vmstate.Private {
		t.Errorf("before the switch it is %+v", vm)
	}
	s.awaitTruth(20)
	id, _ = move("")
	if m, err := d.Client.Migration(t.Context(), id, lab.Limit); err != nil || m.Phase != vmstate.Completed {
		t.Fatalf("the second move is %s: %+v, %v", m.Phase, m.Error, err)
	}
	<-s.ended
	vm, err := d.Client.VM(t.Context(), "vm1")
	if err != nil || vm.PID == s.pid() || vm.Adoption != nil || vm.Status != vmstate.Running || len(vm.Regions) != 1 || vm.Regions[0].Backing != vmstate.Memfd {
		t.Errorf("behind the switch it is %+v, %v", vm, err)
	}
	d.Eventually("the relay has said what it did", func() error {
		return said(filepath.Join(d.RunDir(), "vms/vm1/g*/relay.log"), "pages of zeroes came")
	})
	s.awaitTruth(30)
	if m := s.handOver(vmstate.MigrationSpec{VM: "vm1", Binary: d.Env.QEMU(env.Installed)}); m.Mode != vmstate.ModeShared {
		t.Errorf("handed on in mode %s", m.Mode)
	}
	s.awaitTruth(30)
}

// said is an error if no file that matches the pattern holds the words.
func said(pattern, words string) error {
	files, err := filepath.Glob(pattern)
	for _, name := range files {
		if text, err := os.ReadFile(name); err == nil && strings.Contains(string(text), words) {
			return nil
		}
	}
	return fmt.Errorf("none of %q says %q: %v", files, words, err)
}
