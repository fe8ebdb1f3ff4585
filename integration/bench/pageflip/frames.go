package pageflip

import (
	"encoding/binary"
	"fmt"
	"os"

	"qlive/vmstate"
)

// Bits of an entry of /proc/PID/pagemap (Documentation/admin-guide/mm/pagemap.rst).
const (
	pagePresent = 1 << 63
	pageFrame   = 1<<55 - 1
)

// frames are the numbers of the page frames of a process's memory from addr on, page by page; 0 where there is none.
func frames(pid int, addr uintptr, bytes int) ([]uint64, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/pagemap", pid))
	if err != nil {
		return nil, fmt.Errorf("cannot look at the pages: %w", err)
	}
	defer f.Close()
	page := os.Getpagesize()
	raw := make([]byte, bytes/page*8)
	if _, err := f.ReadAt(raw, int64(addr)/int64(page)*8); err != nil {
		return nil, fmt.Errorf("cannot look at the pages of process %d: %w", pid, err)
	}
	list, hidden := make([]uint64, len(raw)/8), true
	for i := range list {
		entry := binary.NativeEndian.Uint64(raw[i*8:])
		if entry&pagePresent == 0 {
			continue
		}
		list[i] = entry & pageFrame
		hidden = false
		if list[i] == 0 {
			return nil, vmstate.Errorf(vmstate.Denied, "cannot see the numbers of page frames").With("run it as root, with sudo, outside of a container")
		}
	}
	if hidden {
		return nil, nil
	}
	return list, nil
}

// same counts the pages that lie in the frame that they lay in.
func same(before, after []uint64) (n int) {
	for i := range min(len(before), len(after)) {
		if before[i] != 0 && before[i] == after[i] {
			n++
		}
	}
	return n
}

// present counts the pages that are there.
func present(list []uint64) (n int) {
	for _, frame := range list {
		if frame != 0 {
			n++
		}
	}
	return n
}
