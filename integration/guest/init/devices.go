package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"unsafe"
)

// loadModules loads the kernel modules in dir, in the order of their file names. That there are none
// is no error.
func loadModules(dir string) error {
	paths, err := filepath.Glob(filepath.Join(dir, "*.ko"))
	if err != nil {
		return err
	}
	slices.Sort(paths)
	for _, path := range paths {
		if err := loadModule(path); err != nil {
			return err
		}
	}
	return nil
}

// bringUp takes every network interface up, so that its driver fills its queues.
func bringUp() error {
	entries, err := os.ReadDir("/sys/class/net")
	if err != nil {
		return fmt.Errorf("cannot list the network interfaces: %w", err)
	}
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("cannot open a socket: %w", err)
	}
	defer func() { _ = syscall.Close(fd) }()
	for _, e := range entries {
		request := struct {
			name  [syscall.IFNAMSIZ]byte
			flags uint16
			_     [22]byte
		}{flags: syscall.IFF_UP}
		copy(request.name[:syscall.IFNAMSIZ-1], e.Name())
		if err := ioctl(fd, syscall.SIOCSIFFLAGS, uintptr(unsafe.Pointer(&request))); err != nil {
			return fmt.Errorf("cannot take %s up: %w", e.Name(), err)
		}
	}
	return nil
}

// devices names the virtio devices and the drivers that drive them: "virtio0=virtio_net …".
func devices() string {
	const bus = "/sys/bus/virtio/devices"
	entries, _ := os.ReadDir(bus) // without the bus there are none
	words := []string{"devices"}
	for _, e := range entries {
		driver, err := os.Readlink(filepath.Join(bus, e.Name(), "driver"))
		if err != nil {
			driver = "none"
		}
		words = append(words, e.Name()+"="+filepath.Base(driver))
	}
	return strings.Join(words, " ")
}
