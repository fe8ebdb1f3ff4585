package pageflip

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// word is what stands at index i of the content that belongs to the seed; no two pages of it are equal (splitmix64).
func word(seed uint64, i int) uint64 {
	z := seed + uint64(i+1)*0x9e3779b97f4a7c15
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

func words(ram []byte) []uint64 { return unsafe.Slice((*uint64)(unsafe.Pointer(&ram[0])), len(ram)/8) }

func fill(ram []byte, seed uint64) {
	for i, w := 0, words(ram); i < len(w); i++ {
		w[i] = word(seed, i)
	}
}

// verify compares every byte.
func verify(ram []byte, seed uint64) error {
	for i, w := range words(ram) {
		if want := word(seed, i); w != want {
			return fmt.Errorf("cannot find what was sent: at byte %d of %d stands %016x, not %016x", i*8, len(ram), w, want)
		}
	}
	return nil
}

// makeFile makes an empty memfd of a size.
func makeFile(bytes int) (int, error) {
	fd, err := unix.MemfdCreate("pageflip", unix.MFD_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("cannot make a memfd: %w", err)
	}
	if err := unix.Ftruncate(fd, int64(bytes)); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("cannot make a memfd of %d bytes: %w", bytes, err)
	}
	return fd, nil
}

func mapFile(fd, bytes int) ([]byte, error) {
	ram, err := unix.Mmap(fd, 0, bytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("cannot map %d bytes: %w", bytes, err)
	}
	return ram, nil
}

// mapPrivate maps what a QEMU with a plain -m has, but in 4 KiB pages alone: a part of a larger one is not freed at once, and
// that would be measured instead.
func mapPrivate(bytes int) ([]byte, error) {
	ram, err := unix.Mmap(-1, 0, bytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("cannot map %d bytes: %w", bytes, err)
	}
	if err := unix.Madvise(ram, unix.MADV_NOHUGEPAGE); err != nil && err != unix.EINVAL { // EINVAL: a kernel without huge pages
		return nil, fmt.Errorf("cannot ask for small pages: %w", err)
	}
	return ram, nil
}
