package bootsector

import (
	"fmt"
	"os"
)

// imageBytes is the size of the disk: firmware does not start from one of a single sector.
const imageBytes = 1 << 20

// Image returns a raw disk image that a BIOS boots.
func Image() []byte {
	image := make([]byte, imageBytes)
	copy(image, program())
	image[510], image[511] = 0x55, 0xaa
	return image
}

// Write writes the image to path.
func Write(path string) error {
	if err := os.WriteFile(path, Image(), 0o644); err != nil {
		return fmt.Errorf("cannot write the boot sector's image: %w", err)
	}
	return nil
}

// Args are QEMU's arguments that boot the image at path. The disk is read-only, so several QEMUs may
// have it open at once.
func Args(path string) []string {
	return []string{
		"-drive", "if=none,id=boot,format=raw,readonly=on,file=" + path,
		"-device", "virtio-blk-pci,drive=boot",
	}
}
