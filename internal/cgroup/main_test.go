package cgroup_test

import (
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// Environment variables by which the test program does something else than test.
const (
	show = "QLIVE_TEST_SHOW" // print which cgroup it is in
	eat  = "QLIVE_TEST_EAT"  // take 64 MiB of memory
	boot = "QLIVE_TEST_BOOT" // be the first process of a guest: test there, and power off
)

func TestMain(m *testing.M) {
	switch {
	case os.Getenv(show) != "":
		text, err := os.ReadFile("/proc/self/cgroup")
		fmt.Print(string(text), errorText(err))
	case os.Getenv(eat) != "":
		memory := make([]byte, 64<<20)
		for i := 0; i < len(memory); i += os.Getpagesize() {
			memory[i] = 1
		}
	case os.Getenv(boot) != "" && os.Getpid() == 1:
		if err := mountAll(); err != nil {
			fmt.Println(err)
		}
		fmt.Printf("the tests end with %d\n", m.Run())
		fmt.Print(errorText(unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)))
	default:
		os.Exit(m.Run())
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// mountAll makes of an initramfs that holds this program alone a place in which it can run.
func mountAll() error {
	for _, m := range []struct{ at, kind string }{
		{"/dev", "devtmpfs"}, {"/proc", "proc"}, {"/sys", "sysfs"}, {"/sys/fs/cgroup", "cgroup2"}, {"/tmp", "tmpfs"},
	} {
		if err := os.MkdirAll(m.at, 0o755); err != nil {
			return err
		}
		if err := unix.Mount("none", m.at, m.kind, 0, ""); err != nil {
			return fmt.Errorf("cannot mount %s: %w", m.at, err)
		}
	}
	return nil
}
