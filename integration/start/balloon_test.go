package start_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"qlive/integration/env"
	"qlive/integration/guest"
	"qlive/integration/lab"
)

// What a balloon has taken from the guest stays the host's through a handoff and back, though all of it was allocated once.
func TestBallooned(t *testing.T) {
	l := lab.New(t, lab.Options{NoTree: true})
	modules, err := guest.Modules(l.Env.Cache+"/kernel/modules", "virtio_pci", "virtio_balloon")
	if err == nil {
		l.Initrd, err = guest.Build(t.Context(), l.Env.Cache, modules...)
	}
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(l.Dir, "qmp")
	vm := l.Boot(lab.Spec{Guest: small(), Args: []string{"-mem-prealloc", "-device", "virtio-balloon-pci", "-qmp", "unix:" + path + ",server=on,wait=off"}})
	v := vm.Show()
	if got := allocated(t, v.PID, v.Regions[0]); got != 256*mib {
		t.Fatalf("%d bytes are allocated at first", got)
	}
	c := monitor(t, path)
	err = c.Do(t.Context(), "balloon", map[string]int{"value": 224 * mib}, nil)
	c.Close()
	if err != nil {
		t.Fatal(err)
	}
	var held uint64
	await(t, "the balloon is full", lab.Limit, func() error {
		if held = allocated(t, v.PID, v.Regions[0]); held > 225*mib {
			return fmt.Errorf("%d bytes are allocated", held)
		}
		return nil
	})
	for _, version := range []string{env.Newest, env.Installed} {
		m := vm.HandOver(version, "")
		if r := m.Regions[0]; !strings.Contains(r.Note, "holes") || r.PopulatedBytes != 0 || r.ReleasedBytes != r.SizeBytes {
			t.Errorf("region %+v", r)
		}
		vm.CheckMemory()
		if got := allocated(t, m.To.PID, m.Regions[0]); got > held+mib {
			t.Errorf("in %s %d bytes are allocated, %d were", version, got, held)
		}
	}
}
