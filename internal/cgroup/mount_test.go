package cgroup_test

import (
	"testing"

	"golang.org/x/sys/unix"
)

// mountV2 mounts cgroup v2 for the test, on a host where nobody has.
func mountV2(t *testing.T, at string) {
	t.Helper()
	if err := unix.Mount("none", at, "cgroup2", 0, ""); err != nil {
		t.Fatalf("cgroup v2 is not mounted, and cannot be: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(at, 0); err != nil {
			t.Error(err)
		}
	})
}
