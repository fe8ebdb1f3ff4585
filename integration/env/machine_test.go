package env_test

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"testing"

	"qlive/integration/env"
)

// TestMachine holds set-up to its promise: every QEMU is there, starts, is the
// version that its folder says, and has the machine type that all of them share.
func TestMachine(t *testing.T) {
	e, err := env.Locate()
	if err != nil {
		t.Fatal(err)
	}
	for _, version := range env.Versions() {
		t.Run(version, func(t *testing.T) {
			said := run(t, e.QEMU(version), "--version")
			if !strings.HasPrefix(said, "QEMU emulator version "+version+" ") {
				t.Errorf("says it is %q", said)
			}
			if machines := run(t, e.QEMU(version), "-machine", "help"); !strings.Contains(machines, "pc-q35-7.2 ") {
				t.Errorf("has no machine pc-q35-7.2 but:\n%s", machines)
			}
		})
	}
	head := make([]byte, 0x206)
	kernel, err := os.Open(e.Kernel)
	if err != nil {
		t.Fatal(err)
	}
	defer kernel.Close()
	if _, err := kernel.Read(head); err != nil || !bytes.Equal(head[0x202:0x206], []byte("HdrS")) {
		t.Errorf("%s is not a Linux kernel: %v", e.Kernel, err)
	}
}

// TestUnpackedQEMUStaysInItsTree asks an unpacked QEMU for devices whose firmware and
// code it has to load: it must find them, and its own, not those of the installed one.
func TestUnpackedQEMUStaysInItsTree(t *testing.T) {
	e, err := env.Locate()
	if err != nil {
		t.Fatal(err)
	}
	for _, version := range env.Versions() {
		if version == env.Installed {
			continue
		}
		t.Run(version, func(t *testing.T) {
			dirs := strings.Fields(run(t, e.QEMU(version), "-L", "help"))
			if len(dirs) == 0 || !strings.HasPrefix(dirs[0], e.Cache+"/") {
				t.Errorf("firmware is looked for first in %q", dirs)
			}
			cmd := exec.Command(e.QEMU(version), "-machine", "pc-q35-7.2,accel=tcg", "-m", "64", "-nodefaults",
				"-device", "VGA", "-device", "virtio-gpu-pci", "-device", "e1000e", "-device", "virtio-net-pci",
				"-display", "none", "-S", "-qmp", "stdio")
			cmd.Stdin = strings.NewReader(`{"execute":"qmp_capabilities"}{"execute":"quit"}`)
			out, err := cmd.CombinedOutput()
			if err != nil || !bytes.Contains(out, []byte("host-qmp-quit")) || bytes.Contains(out, []byte("failed to")) {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).Output()
	if err != nil {
		t.Fatalf("%s %s: %v", name, strings.Join(args, " "), err)
	}
	return string(out)
}
