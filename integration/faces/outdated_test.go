package faces_test

import (
	"os"
	"path/filepath"
	"testing"

	"qlive/integration/env"
	"qlive/integration/lab"
	"qlive/vmstate"
)

// Whether the file of a guest's binary has been replaced is told as it is when somebody asks, in the tree and by REST.
func TestOutdated(t *testing.T) {
	l := lab.New(t, lab.Options{})
	binary := filepath.Join(l.Dir, "qemu")
	replace := func(version string) {
		t.Helper()
		text := "#!/bin/sh\nexec " + l.Env.QEMU(version) + " \"$@\"\n"
		if err := os.WriteFile(binary+".new", []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(binary+".new", binary); err != nil { // as dpkg does
			t.Fatal(err)
		}
	}
	replace(env.Installed)
	for _, name := range []string{"vm1", "vm2"} {
		if _, err := l.Client.StartVM(t.Context(), vmstate.VMSpec{Name: name, Binary: binary, Args: l.Args(lab.Spec{Bare: true})}); err != nil {
			t.Fatal(err)
		}
	}
	list := func() (outdated int) {
		t.Helper()
		vms, err := l.Client.VMs(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, vm := range vms {
			if vm.QEMU.Outdated {
				outdated++
			}
		}
		return outdated
	}
	if n := list(); n != 0 {
		t.Errorf("at first %d VMs are outdated", n)
	}
	kept := filepath.Join(l.Dir, "kept")
	if err := os.Link(binary, kept); err != nil {
		t.Fatal(err)
	}

	replace(env.Newest)
	if got := l.Cat("vm1", "outdated"); got != "1" {
		t.Errorf("outdated is %s when the file has just been replaced", got)
	}
	if err := os.Rename(kept, binary); err != nil { // it did not please
		t.Fatal(err)
	}
	if got := l.Cat("vm1", "outdated"); got != "0" {
		t.Errorf("outdated is %s when the file has just been put back", got)
	}
	replace(env.Newest)
	if vm, err := l.Client.VM(t.Context(), "vm1"); err != nil || !vm.QEMU.Outdated {
		t.Errorf("by REST: %+v, %v", vm.QEMU, err)
	}
	if n := list(); n != 2 {
		t.Errorf("%d VMs of two are listed as outdated", n)
	}

	m, err := l.Client.Migrate(t.Context(), vmstate.MigrationSpec{VM: "vm1"}, "")
	if err == nil {
		m, err = l.Client.Migration(t.Context(), m.ID, lab.Limit)
	}
	if err != nil || m.Phase != vmstate.Completed || m.To.Version != env.Newest {
		t.Fatalf("to the file that is there now: %+v, %v", m, err)
	}
	if n := list(); n != 1 || l.Cat("vm1", "outdated") != "0" {
		t.Errorf("after its handoff %d are outdated", n)
	}
}
