package bench

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"qlive/integration/env"
	"qlive/integration/guest"
)

// spareMiB is the memory that a guest has beyond what it touches: its kernel, the kernel's own tables, its program.
const spareMiB = 128

// ramID is the id of the memory backend, and so the name of the RAM block: what QEMU calls it for a plain -m.
const ramID = "pc.ram"

// Shape is what a guest is like.
type Shape struct {
	Machine    string `json:"machine"`
	TouchedMiB int    `json:"touched_mib"` // memory that the guest has filled; it has a little more
	HugePages  bool   `json:"huge_pages"`  // of 2 MiB
	VCPUs      int    `json:"vcpus"`
	Devices    int    `json:"devices"` // virtio devices, at most 4
}

func (s Shape) ramMiB() int     { return s.TouchedMiB + spareMiB + s.TouchedMiB/16 }
func (s Shape) ramBytes() int64 { return int64(s.ramMiB()) << 20 }
func (s Shape) pageBytes() int64 {
	if s.HugePages {
		return 2 << 20
	}
	return 0
}

// parts are what guests on this machine are made of.
type parts struct {
	env.Env
	initrd string
}

// args are the arguments for the guest as a user would write them, all but the machine. See chardev for the two
// folders.
func (s Shape) args(p parts, guestDir, qemuDir string) []string {
	args := []string{
		"-accel", "tcg", "-cpu", "qemu64", "-smp", fmt.Sprint(s.VCPUs), "-m", fmt.Sprint(s.ramMiB()),
		"-display", "none", "-nodefaults", "-no-user-config", "-vga", "none",
		"-chardev", chardev(guestDir, qemuDir), "-serial", "chardev:console",
		"-kernel", p.Kernel, "-initrd", p.initrd,
		"-append", guest.Append(guest.Params{FillMiB: s.TouchedMiB, VerifySecs: -1}),
	}
	for _, device := range [][]string{
		{"-netdev", "user,id=net0,restrict=on", "-device", "virtio-net-pci,netdev=net0,addr=5"},
		{"-drive", "file=" + filepath.Join(guestDir, "disk") + ",if=none,id=disk0,format=raw", "-device", "virtio-blk-pci,drive=disk0,addr=6"},
		{"-device", "virtio-rng-pci,addr=7"},
		{"-device", "virtio-balloon-pci,addr=8"},
	}[:s.Devices] {
		args = append(args, device...)
	}
	return args
}

// makeDisk makes the guest's disk, if it has one: 64 MiB without anything on it.
func (s Shape) makeDisk(guestDir string) error {
	if s.Devices < 2 {
		return nil
	}
	disk, err := os.Create(filepath.Join(guestDir, "disk"))
	if err == nil {
		err = errors.Join(disk.Truncate(64<<20), disk.Close())
	}
	return err
}

// bareArgs are the arguments for a QEMU that the bench itself runs, its RAM in the descriptor 3, its monitor in dir.
func (s Shape) bareArgs(p parts, guestDir, dir, machineMore string) []string {
	backend := fmt.Sprintf("memory-backend-file,id=%s,size=%d,mem-path=/proc/self/fd/3,share=on", ramID, s.ramBytes())
	return append(s.args(p, guestDir, dir),
		"-object", backend, "-machine", s.Machine+",memory-backend="+ramID+machineMore,
		"-qmp", "unix:"+filepath.Join(dir, "qmp")+",server=on,wait=off")
}
