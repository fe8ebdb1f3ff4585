package env

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// From linux/kvm.h: the request, and the only answer there has been since 2007.
const (
	kvmGetAPIVersion = 0xae00
	kvmAPIVersion    = 12
)

// KVM says why /dev/kvm cannot be used, nil if it can. That it can does not mean
// that a whole Linux boots on it: nested and emulated KVMs may run no more than a
// boot sector, which only trying tells.
func KVM() error {
	fd, err := unix.Open("/dev/kvm", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("cannot open /dev/kvm: %w", err)
	}
	defer unix.Close(fd)
	version, err := unix.IoctlRetInt(fd, kvmGetAPIVersion)
	if err != nil {
		return fmt.Errorf("cannot use /dev/kvm: %w", err)
	}
	if version != kvmAPIVersion {
		return fmt.Errorf("cannot use /dev/kvm: its interface is version %d, not %d", version, kvmAPIVersion)
	}
	return nil
}
