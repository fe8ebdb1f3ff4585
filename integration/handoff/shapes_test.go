package handoff_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"qlive/integration/env"
	"qlive/integration/guest"
	"qlive/integration/lab"
	"qlive/vmstate"
)

// tour visits every ordered pair of the three versions, starting and ending in the oldest.
func tour() []string {
	return []string{env.Backport, env.Newest, env.Backport, env.Installed, env.Newest, env.Installed}
}

// Machines of every shape go through every ordered pair of versions; afterwards the guest reboots through its firmware into its kernel.
func TestShapes(t *testing.T) {
	for _, tt := range []struct {
		name string
		spec lab.Spec
	}{
		{"q35", lab.Spec{Machine: "pc-q35-7.2"}},
		{"q35, 2 cpus, 2 numa nodes", lab.Spec{Machine: "pc-q35-7.2", CPUs: 2, NoRAM: true, Args: []string{
			"-m", "256", "-object", "memory-backend-ram,id=near,size=128M", "-object", "memory-backend-memfd,id=far,size=128M",
			"-numa", "node,memdev=near,cpus=0", "-numa", "node,memdev=far,cpus=1"}}},
		{"i440fx, 2 cpus", lab.Spec{Machine: "pc-i440fx-7.2", CPUs: 2}},
		{"i440fx, named backend, vga and usb", lab.Spec{Machine: "pc-i440fx-7.2", NoRAM: true, Args: []string{
			"-m", "256", "-object", "memory-backend-ram,id=mine,size=256M", "-machine", "memory-backend=mine",
			"-device", "VGA", "-device", "piix3-usb-uhci", "-device", "virtio-rng-pci"}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := lab.New(t, lab.Options{})
			vm := l.Boot(tt.spec)
			for _, version := range tour() {
				m := vm.HandOver(version, "")
				vm.AwaitBeats(50)
				t.Logf("%s → %s: pause %d µs", m.From.Version, m.To.Version, *m.PauseUS)
			}
			vm.CheckMemory()
			vm.Type("reboot")
			vm.AwaitBoots(2)
			vm.AwaitBeats(50)
			vm.HandOver(env.Newest, "")
			vm.CheckMemory()
		})
	}
}

// A guest that was handed over still finds its firmware and its video memory: it reboots on the other side, more than once, and
// across further handoffs.
func TestReboot(t *testing.T) {
	for _, way := range vmstate.Ways() {
		t.Run(string(way), func(t *testing.T) {
			l := lab.New(t, lab.Options{})
			vm := l.Boot(lab.Spec{Args: []string{"-device", "VGA"}, Guest: guest.Params{FillMiB: 16}})
			rebootAfter(vm, way, way)
		})
	}
}

// The same with UEFI, one way after the other. Its flash is the guest's own: what the firmware writes there is kept.
func TestRebootUEFI(t *testing.T) {
	l := lab.New(t, lab.Options{})
	vm := l.Boot(lab.Spec{Args: l.UEFI(t), Guest: guest.Params{FillMiB: 16}})
	rebootAfter(vm, vmstate.Ways()...)
	vars, err := os.ReadFile(filepath.Join(l.Dir, "vars.fd"))
	if err != nil {
		t.Fatal(err)
	}
	pristine, err := os.ReadFile(l.Env.OVMFVars)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(vars, pristine) {
		t.Error("the firmware has written nothing into its flash")
	}
}

// rebootAfter hands the guest over to and fro by the ways given, with a reboot after each.
func rebootAfter(vm *lab.VM, ways ...vmstate.Way) {
	for i, way := range ways {
		vm.HandOver([]string{env.Newest, env.Installed}[i%2], way)
		vm.CheckMemory()
		vm.Type("reboot")
		vm.AwaitBoots(2 + i)
		vm.CheckMemory()
	}
}
