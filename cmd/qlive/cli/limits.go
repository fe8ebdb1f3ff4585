package cli

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"qlive/vmstate"
)

// limitsFlag is a flag that is given once for each limit: memory=6G, cpu=150%, processes=200, oom=100.
type limitsFlag struct{ limits vmstate.Limits }

func (f *limitsFlag) String() string { return "" }

// Type is what help calls the value.
func (f *limitsFlag) Type() string { return "NAME=N" }

// Set adds one limit.
func (f *limitsFlag) Set(text string) error {
	name, value, ok := strings.Cut(text, "=")
	if !ok || value == "" {
		return fmt.Errorf("%q sets nothing: write such as memory=6G", text)
	}
	var err error
	switch name {
	case "memory":
		f.limits.MemoryBytes, err = parseBytes(value)
	case "cpu":
		f.limits.CPUPercent, err = positive(strings.TrimSuffix(value, "%"))
	case "processes":
		f.limits.Processes, err = positive(value)
	case "oom":
		f.limits.OOMScoreAdj, err = strconv.Atoi(value)
	default:
		return fmt.Errorf("there is no limit of %s: write memory, cpu, processes or oom", name)
	}
	if err != nil {
		return fmt.Errorf("%q is no limit of %s", value, name)
	}
	return f.limits.Check()
}

func positive(text string) (int, error) {
	n, err := strconv.ParseUint(text, 10, 31)
	if err == nil && n == 0 {
		err = strconv.ErrRange
	}
	return int(n), err
}

// parseBytes reads a number of bytes, or of KiB, MiB, GiB or TiB if a K, M, G or T stands behind it.
func parseBytes(text string) (uint64, error) {
	shift := 0
	if i := strings.IndexByte("KMGT", text[len(text)-1]&^0x20); i >= 0 {
		shift, text = 10*(i+1), text[:len(text)-1]
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err == nil && (n == 0 || n > math.MaxInt64>>shift) {
		err = strconv.ErrRange
	}
	return n << shift, err
}
