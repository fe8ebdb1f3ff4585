package guest_test

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"qlive/integration/guest"
	"qlive/integration/guest/beats"
)

func modules(t *testing.T) []guest.Module {
	t.Helper()
	found, err := guest.Modules(cached(t, "kernel/modules"), guest.VirtioModules()...)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestModulesComeAfterWhatTheyNeed(t *testing.T) {
	var names []string
	for _, m := range modules(t) {
		names = append(names, m.Name)
	}
	for _, pair := range [][2]string{{"virtio", "virtio_pci"}, {"virtio_ring", "virtio_pci"}, {"net_failover", "virtio_net"},
		{"failover", "net_failover"}, {"virtio_pci_modern_dev", "virtio_pci"}, {"virtio_ring", "virtio_blk"}} {
		first, second := slices.Index(names, pair[0]), slices.Index(names, pair[1])
		if first < 0 || second < first {
			t.Errorf("%s is not before %s in %s", pair[0], pair[1], names)
		}
	}
	if len(slices.Compact(slices.Sorted(slices.Values(names)))) != len(names) {
		t.Errorf("a module comes twice: %s", names)
	}
}

func TestModulesThatAreNot(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "text.ko"), strings.Repeat("no module ", 10))
	tests := map[string]struct{ dir, name, want string }{
		"unknown":   {dir, "nosuch", "cannot find the kernel module nosuch below " + dir},
		"no ELF":    {dir, "text", "text.ko: bad magic number"},
		"no folder": {filepath.Join(dir, "none"), "x", "cannot look for kernel modules"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if _, err := guest.Modules(tt.dir, tt.name); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want %q", err, tt.want)
			}
		})
	}
}

// With the modules the guest drives its devices, after a reboot too.
func TestVirtioDevicesAreDriven(t *testing.T) {
	m := boot(t, spec{modules: modules(t), kernel: &guest.Params{FillMiB: 8}, args: []string{
		"-netdev", "user,id=net0,restrict=on", "-device", "virtio-net-pci,netdev=net0",
		"-blockdev", "null-co,node-name=disk0,size=1048576,read-zeroes=on", "-device", "virtio-blk-pci,drive=disk0",
		"-device", "virtio-rng-pci", "-device", "virtio-balloon-pci",
	}})
	const want = "devices virtio0=virtio_net virtio1=virtio_blk virtio2=virtio_rng virtio3=virtio_balloon"
	driven := func(r beats.Report) bool { return len(r.Answers) == len(r.Boots) }
	if r := m.ask("devices", driven); r.Answers[0] != want {
		t.Errorf("the guest has %q", r.Answers)
	}
	m.ask("reboot", func(r beats.Report) bool { return len(r.Boots) == 2 })
	if r := m.ask("devices", driven); r.Answers[1] != want {
		t.Errorf("after a reboot the guest has %q", r.Answers)
	}
	m.verify(true)
	if err := m.console.Report().Check(); err != nil {
		t.Error(err)
	}
	m.poweroff()
}
