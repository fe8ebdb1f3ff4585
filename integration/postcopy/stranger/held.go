package stranger

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Held is how much memory the guest's RAM takes on the host: what the source has in the private mapping of the guest's size (smaps), and what
// the files of a move own.
func Held(g *Guest, m *Move) (uint64, error) {
	held, err := privateOf(g.Source.Process.PID(), uint64(g.Spec.MiB)<<20)
	if err != nil {
		return 0, err
	}
	for _, r := range m.Memory.Regions() {
		n, err := r.AllocatedBytes()
		if err != nil {
			return 0, err
		}
		held += n
	}
	return held, nil
}

// privateOf is how much a process has in memory of its private mapping of so many bytes that has no file behind it.
func privateOf(pid int, size uint64) (uint64, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/smaps", pid))
	if os.IsNotExist(err) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer f.Close()
	var held uint64
	counts := false
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if start, end, ok := strings.Cut(fields[0], "-"); ok {
			a, err1 := strconv.ParseUint(start, 16, 64)
			b, err2 := strconv.ParseUint(end, 16, 64)
			counts = err1 == nil && err2 == nil && b-a == size && len(fields) == 5 && strings.HasSuffix(fields[1], "p")
		} else if counts && (fields[0] == "Anonymous:") {
			kb, err := strconv.ParseUint(fields[1], 10, 64)
			if err != nil {
				return 0, err
			}
			held += kb << 10
		}
	}
	return held, lines.Err()
}
