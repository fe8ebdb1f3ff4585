package failures_test

import (
	"strings"
	"testing"

	"qlive/integration/env"
	"qlive/integration/guest"
	"qlive/integration/lab"
	"qlive/vmstate"
)

// networked starts a guest with a virtio network card that its kernel drives.
func networked(t *testing.T, version string) *scene {
	t.Helper()
	s := newScene(t)
	s.withModules(t, guest.VirtioModules()...)
	s.boot(lab.Spec{QEMU: version, Args: []string{"-netdev", "user,id=n0", "-device", "virtio-net-pci,netdev=n0"}})
	s.vm.Type("devices")
	s.Eventually("the guest says that it drives its network card", func() error { return s.answered("virtio0=virtio_net") })
	return s
}

// withModules gives the guests of the scene kernel modules.
func (s *scene) withModules(t *testing.T, names ...string) {
	t.Helper()
	modules, err := guest.Modules(s.Env.Cache+"/kernel/modules", names...)
	if err != nil {
		t.Fatal(err)
	}
	if s.Initrd, err = guest.Build(t.Context(), s.Env.Cache, modules...); err != nil {
		t.Fatal(err)
	}
}

// QEMU 10.0.13 gives each queue of a virtio network card 1024 entries when it makes or resets the device, and QEMU 11.1 refuses to load
// more than it has made itself. Same machine type, same device, both shipped by Debian: a guest that was started or reset on 10.0.13
// is kept where it is, whichever way it takes, and one that only passed through goes on.
func TestShippedIncompatibility(t *testing.T) {
	refused := want{kind: vmstate.Incompatible, step: "load", says: "the target QEMU 11.1.3 ended with status 1", words: "vring.num 1024 exceeds allocated max 256"}
	toNewest := func(t *testing.T, s *scene) {
		t.Helper()
		for _, way := range vmstate.Ways() {
			m := s.undone(t, vmstate.MigrationSpec{Binary: s.Env.QEMU(env.Newest), Way: way}, refused)
			if !strings.Contains(m.Error.Remedy, "10.0.13") || !strings.Contains(m.Error.Remedy, "restart") {
				t.Errorf("the remedy by %s is %q", way, m.Error.Remedy)
			}
		}
		s.vm.CheckMemory()
	}
	t.Run("started on it", func(t *testing.T) {
		s := networked(t, env.Stable)
		toNewest(t, s)
		t.Run("carried to 7.2 first", func(t *testing.T) {
			s.works(t, env.Installed, vmstate.WayDeviceState)
			toNewest(t, s)
		})
		t.Run("restarted elsewhere", func(t *testing.T) { // as the remedy says
			s.vm.Type("reboot")
			s.vm.AwaitBoots(2)
			s.works(t, env.Newest, vmstate.WayDeviceState)
		})
	})
	t.Run("passed through it", func(t *testing.T) {
		s := networked(t, env.Installed)
		for _, way := range vmstate.Ways() {
			m := s.works(t, env.Stable, way)
			warned(t, m)
			s.works(t, env.Newest, way)
		}
		t.Run("reset on it", func(t *testing.T) {
			s.works(t, env.Stable, vmstate.WayDeviceState)
			if _, err := s.Client.Reset(t.Context(), s.vm.Name); err != nil {
				t.Fatal(err)
			}
			s.vm.AwaitBoots(2)
			toNewest(t, s)
			s.works(t, env.Backport, vmstate.WayDeviceState)
		})
	})
}

// warned makes sure that a handoff into 10.0.13 warns of it.
func warned(t *testing.T, m vmstate.Migration) {
	t.Helper()
	text := strings.Join(m.Warnings, "\n")
	if !strings.Contains(text, "10.0.13") || !strings.Contains(text, "1024 entries") || !strings.Contains(text, "11.1") {
		t.Errorf("the warnings are %q", m.Warnings)
	}
}
