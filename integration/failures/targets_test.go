package failures_test

import (
	"errors"
	"testing"

	"qlive/integration/env"
	"qlive/integration/lab"
	"qlive/restapi/client"
	"qlive/vmstate"
)

// A binary that must not run is refused before there is a migration, and the answer says what to do.
func binariesNotAdmitted(t *testing.T, s *scene) {
	tests := []struct {
		name, path string
		want       want
	}{
		{"does not exist", s.bin + "/nothing", want{kind: vmstate.NotFound, says: "nothing does not exist"}},
		{"not in allowed_binaries", "/usr/bin/qemu-system-x86_64", want{kind: vmstate.Denied, says: "allowed_binaries does not admit it"}},
		{"writable by all", s.file(t, "open", "#!/bin/sh\n", 0o757), want{kind: vmstate.Denied, says: "others can write"}},
		{"a text file", s.file(t, "text", "I am a text\n", 0o644), want{kind: vmstate.Denied, says: "no executable file"}},
		{"a script without its interpreter's path", s.file(t, "env", "#!/usr/bin/env sh\n", 0o755), want{kind: vmstate.Denied, says: "interpreter"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			before := s.look(t)
			m, err := s.ask(t, vmstate.MigrationSpec{Binary: tt.path})
			refusal, ok := errors.AsType[*client.Refusal](err)
			if !ok {
				t.Fatalf("it is not refused: %+v, %v", m, err)
			}
			tt.want.step = "plan"
			tt.want.problem(t, &refusal.Problem)
			if refusal.VM != s.vm.Name {
				t.Errorf("the problem is of VM %q", refusal.VM)
			}
			s.same(t, before)
		})
	}
	s.works(t, env.Newest, vmstate.WayDeviceState)
}

// badTarget is a target that cannot take the guest.
type badTarget struct {
	name string
	path string
	spec vmstate.MigrationSpec
	want want
}

func (s *scene) badTargets(t *testing.T) []badTarget {
	script := func(name, version, text string) string { return s.script(t, name, version, text) }
	shape := func(name, version, more string) string { return script(name, version, "INCOMING\nQEMU \"$@\" "+more) }
	dropping := func(name, value string) string { // drops the option -device value
		return script(name, env.Newest, `INCOMING
n=$#
while [ $n -gt 0 ]; do
	a=$1; shift; n=$((n-1))
	if [ "$a" = -device ] && [ "$1" = `+value+` ]; then shift; n=$((n-1)); else set -- "$@" "$a"; fi
done
QEMU "$@"`)
	}
	plan := func(kind vmstate.Kind, says, words string) want {
		return want{kind: kind, step: "plan", says: says, words: words}
	}
	start := func(kind vmstate.Kind, says, words string) want {
		return want{kind: kind, step: "start-target", says: says, words: words}
	}
	differs := func(step, says string) want { return want{kind: vmstate.Incompatible, step: step, says: says} }
	brief := vmstate.MigrationSpec{TimeoutS: 1}
	return []badTarget{
		{"no QEMU: ends at once", s.file(t, "true", "#!/bin/sh\nexit 0\n", 0o755), vmstate.MigrationSpec{}, plan(vmstate.QEMU, "ended with status 0", "")},
		{"no QEMU: a text that may be executed", s.file(t, "text", "I am a text\n", 0o755), vmstate.MigrationSpec{}, plan(vmstate.QEMU, "exec format error", "")},
		{"no QEMU: prints rubbish", script("rubbish", "", "echo some rubbish; exit 3"), vmstate.MigrationSpec{}, plan(vmstate.QEMU, "ended with status 3", "some rubbish")},
		{"no QEMU: rubbish on the monitor", script("babble", "", "echo babble >&3; sleep 60"), vmstate.MigrationSpec{}, plan(vmstate.QEMU, "cannot find out what", "")},
		{"no QEMU: says nothing", script("silent", "", "sleep 60"), brief, plan(vmstate.Timeout, "within 1s", "")},

		{"exits at start", script("exits", env.Newest, "INCOMING\necho I do not feel like it >&2; exit 4"), vmstate.MigrationSpec{},
			start(vmstate.QEMU, "ended with status 4", "I do not feel like it")},
		{"an option that it has not", shape("no option", env.Newest, "-no-such-option"), vmstate.MigrationSpec{}, start(vmstate.QEMU, "ended with status 1", "invalid option")},
		{"never answers on its monitor", script("hangs", env.Newest, "INCOMING\nsleep 60"), vmstate.MigrationSpec{}, start(vmstate.Timeout, "cannot reach the monitor", "")},
		{"too slow for timeout_s", script("slow", env.Newest, "INCOMING\nsleep 60"), brief, start(vmstate.Timeout, "within 1s", "")},
		{"does not wait for a stream", script("eager", env.Newest, `INCOMING
for a; do shift; case $a in -incoming|defer) ;; *) set -- "$@" "$a";; esac; done
QEMU "$@"`), vmstate.MigrationSpec{}, start(vmstate.Incompatible, "its run state is prelaunch, not inmigrate", "")},
		{"has a child in its place", script("parent", env.Newest, "INCOMING\n"+s.Env.QEMU(env.Newest)+" \"$@\"\nexit 0"), vmstate.MigrationSpec{}, differs("start-target", "its QEMU is process")},
		{"other RAM", script("private", env.Newest, `INCOMING
for a; do shift; case $a in memory-backend-file,*) a="memory-backend-ram,id=pc.ram,size=268435456";; esac; set -- "$@" "$a"; done
QEMU "$@"`), vmstate.MigrationSpec{}, differs("verify-mapping", "it maps 0 of 268435456 bytes of RAM block pc.ram")},
		{"other RAM size", shape("more", env.Newest, "-m 512"), vmstate.MigrationSpec{}, start(vmstate.QEMU, "ended with status 1", "memory")},
		{"a device too many", shape("rng", env.Newest, "-device virtio-balloon-pci"), vmstate.MigrationSpec{}, differs("compare-devices", "only the target has it")},
		{"a device too few", dropping("less", "virtio-rng-pci"), vmstate.MigrationSpec{}, differs("compare-devices", "only the source has it")},
		{"a device behind another bridge", script("moved", env.Newest, `INCOMING
for a; do shift; case $a in qemu-xhci,bus=port0) a=qemu-xhci,bus=port1;; esac; set -- "$@" "$a"; done
QEMU "$@"`), vmstate.MigrationSpec{}, differs("compare-devices", "qemu-xhci at port0/0 in the source, qemu-xhci at port1/0 in the target")},
		{"a device with RAM too few", dropping("blind", "VGA"), vmstate.MigrationSpec{}, differs("compare-blocks", "vga.vram: only the source has it")},
		{"other video memory", shape("vram", env.Newest, "-global VGA.vgamem_mb=32"), vmstate.MigrationSpec{}, differs("compare-blocks", "16777216 bytes in the source, 33554432 in the target")},
		{"other ROM size", shape("rom", env.Newest, "-global VGA.romsize=1048576"), vmstate.MigrationSpec{}, differs("compare-blocks", "vga.rom: ")},
		{"another CPU", shape("cpu", env.Newest, "-cpu Nehalem"), vmstate.MigrationSpec{}, differs("compare-devices", "cpu 0: qemu64-x86_64-cpu in the source, Nehalem")},
		{"a CPU that can do less", shape("weak", env.Newest, "-cpu qemu64,-sse3"), vmstate.MigrationSpec{}, differs("compare-devices", "cpuid 0x1 ECX")},
		{"another machine type", shape("machine", env.Newest, "-machine pc-q35-8.0,memory-backend=pc.ram"), vmstate.MigrationSpec{}, differs("compare-devices", "machine: pc-q35-7.2-machine in the source, pc-q35-8.0-machine")},
	}
}

// Whatever is wrong with a target, the guest does not notice, the problem says what it is, and the next handoff works. The
// handoffs in between give every QEMU, by every way, a turn as the source.
func TestBadTargets(t *testing.T) {
	s := newScene(t)
	s.boot(lab.Spec{Args: []string{"-device", "VGA", "-device", "virtio-rng-pci",
		"-device", "pcie-root-port,id=port0,chassis=1", "-device", "pcie-root-port,id=port1,chassis=2", "-device", "qemu-xhci,bus=port0"}})
	next := s.tour()
	for _, tt := range s.badTargets(t) {
		t.Run(tt.name, func(t *testing.T) {
			tt.spec.Binary = tt.path
			s.undone(t, tt.spec, tt.want)
			version, way := next()
			s.works(t, version, way)
		})
	}
}

// tour gives the next version and way to hand over to, so that in the end each was there.
func (s *scene) tour() func() (string, vmstate.Way) {
	versions := []string{env.Newest, env.Backport, env.Installed, env.Stable}
	turn := 0
	return func() (string, vmstate.Way) {
		turn++
		return versions[turn%len(versions)], vmstate.Ways()[turn%len(vmstate.Ways())]
	}
}

// A machine type that the target has no more.
func TestMachineTypeGone(t *testing.T) {
	s := newScene(t)
	s.boot(lab.Spec{Machine: "pc-q35-2.4"})
	for range 2 { // from 7.2, then from 10.0
		for _, way := range vmstate.Ways() {
			s.undone(t, vmstate.MigrationSpec{Binary: s.Env.QEMU(env.Newest), Way: way},
				want{kind: vmstate.Incompatible, step: "plan", says: "QEMU 11.1.3 has no machine type pc-q35-2.4"})
		}
		s.works(t, env.Stable, vmstate.WayDeviceState)
	}
}

// A property of a device that the target has no more.
func TestDevicePropertyGone(t *testing.T) {
	s := newScene(t)
	s.boot(lab.Spec{Args: []string{"-device", "virtio-balloon-pci,qemu-4-0-config-size=off"}})
	for _, way := range vmstate.Ways() {
		s.undone(t, vmstate.MigrationSpec{Binary: s.Env.QEMU(env.Newest), Way: way},
			want{kind: vmstate.QEMU, step: "start-target", says: "ended with status 1", words: "Property 'virtio-balloon-pci.qemu-4-0-config-size' not found"})
		s.works(t, env.Backport, way)
	}
}
