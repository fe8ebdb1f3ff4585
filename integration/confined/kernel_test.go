package confined_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"qlive/integration/env"
	"qlive/integration/guest"
	"qlive/integration/lab"
)

// A kernel whose cgroup v2 has every controller keeps every limit. The host's may not have them: so the tests of package cgroup run as
// the only process of a guest whose kernel does.
func TestCgroupsOfAnotherKernel(t *testing.T) {
	e, err := env.Locate()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), lab.Limit)
	defer cancel()
	build := exec.CommandContext(ctx, "go", "test", "-c", "-trimpath", "-o", filepath.Join(dir, "init"), "qlive/internal/cgroup")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the tests: %v: %s", err, out)
	}
	program, err := os.ReadFile(filepath.Join(dir, "init"))
	if err != nil {
		t.Fatal(err)
	}
	initrd := filepath.Join(dir, "initramfs.cpio")
	if err := os.WriteFile(initrd, guest.Initramfs(program), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(ctx, e.QEMU(env.Installed), "-accel", "tcg", "-cpu", "max", "-m", "256", "-nodefaults", "-nographic", "-no-reboot",
		"-serial", "stdio", "-kernel", e.Kernel, "-initrd", initrd, "-append", "console=ttyS0 quiet panic=-1 no_timer_check QLIVE_TEST_BOOT=1 -- -test.v").CombinedOutput()
	text := string(out)
	for _, want := range []string{"the tests end with 0", "--- PASS: TestKernel", "missing: []", "Memory cgroup out of memory"} {
		if err != nil || !strings.Contains(text, want) {
			t.Fatalf("%q is not in what the guest says (%v):\n%s", want, err, text)
		}
	}
}
