package systemd_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"qlive/integration/env"
	"qlive/integration/guest/bootsector"
	"qlive/integration/lab"
)

// Under a systemd that runs, with the units as they are shipped: docs/operations.md is true, and the guest notices nothing of it.
func testUnderSystemd(t *testing.T, program string) {
	t.Helper()
	e, err := env.Locate()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "qlive-host-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	place := filepath.Join(dir, "scene")
	if err := os.Mkdir(place, 0o755); err != nil {
		t.Fatal(err)
	}
	image, console := filepath.Join(dir, "vm1.img"), filepath.Join(dir, "console")
	if err := bootsector.Write(image); err != nil {
		t.Fatal(err)
	}
	units, err := filepath.Abs(packaging)
	if err != nil {
		t.Fatal(err)
	}
	steps, err := os.Open("testdata/life.sh")
	if err != nil {
		t.Fatal(err)
	}
	defer steps.Close()
	cgroup := fmt.Sprintf("qlive-test-%d", os.Getpid())
	t.Cleanup(func() { removeCgroups(t, cgroup) })

	ctx, cancel := context.WithTimeout(t.Context(), lab.Limit)
	defer cancel()
	// Whatever is left in there ends with it (--kill-child).
	cmd := exec.CommandContext(ctx, "unshare", "--mount", "--pid", "--uts", "--fork", "--kill-child", "--mount-proc", "bash", "testdata/scene.sh")
	cmd.Env = append(os.Environ(), "DIR="+place, "UNITS="+units, "PROGRAM="+program, "IMAGE="+image, "CONSOLE="+console,
		"CGROUP="+cgroup, "QEMU="+e.QEMU(env.Installed))
	var said bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = steps, &said, &said
	cmd.WaitDelay = 5 * time.Second
	began := time.Now()
	if err := cmd.Run(); err != nil || !strings.HasSuffix(said.String(), "done\n") {
		t.Fatalf("%v:\n%s", err, &said)
	}
	t.Logf("%v:\n%s", time.Since(began), &said)

	text, err := os.Open(console)
	if err != nil {
		t.Fatal(err)
	}
	defer text.Close()
	report, err := bootsector.Analyze(text)
	if err == nil {
		err = report.Check()
	}
	if err != nil || report.Boots != 1 {
		t.Errorf("the guest: %v, %+v", err, report)
	}
}

// removeCgroups removes the scene's cgroups, which are empty, from the host's hierarchy.
func removeCgroups(t *testing.T, name string) {
	for _, top := range []string{"/sys/fs/cgroup/" + name, "/sys/fs/cgroup/unified/" + name} {
		if _, err := os.Lstat(top); err != nil {
			continue // cgroup2 is not mounted there
		}
		out, err := exec.Command("find", top, "-depth", "-type", "d", "-exec", "rmdir", "{}", ";").CombinedOutput()
		if err != nil {
			t.Errorf("removing %s: %v: %s", top, err, out)
		}
	}
}
