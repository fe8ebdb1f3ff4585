package daemon

import (
	"strings"
	"testing"

	"qlive/vmstate"
)

// What cannot be copied, or need not be, is refused before anything is made, with the numbers and the way out.
func TestCopyMemoryRefused(t *testing.T) {
	region := func(bytes uint64) []vmstate.AdoptedRegion {
		return []vmstate.AdoptedRegion{{Name: "pc.ram", SizeBytes: bytes, PageBytes: 4096, Backing: vmstate.PrivateFile, Mode: vmstate.ModePrecopy}}
	}
	for name, tt := range map[string]struct {
		adoption *vmstate.Adoption
		asked    *vmstate.MemorySpec
		kind     vmstate.Kind
		says     string
	}{
		"qlive's own":             {nil, nil, vmstate.Unsupported, "copied for nothing"},
		"what qlive can map":      {&vmstate.Adoption{Mode: vmstate.ModeShared, Regions: region(1 << 20)}, nil, vmstate.Unsupported, "copied for nothing"},
		"more than the host has":  {&vmstate.Adoption{Mode: vmstate.ModePrecopy, Regions: region(1 << 46)}, nil, vmstate.Exhausted, "that takes about 67108928 MiB of memory, and the host has "},
		"more, into what it asks": {&vmstate.Adoption{Mode: vmstate.ModeShared, Regions: region(1 << 46)}, &vmstate.MemorySpec{Backing: vmstate.Memfd}, vmstate.Exhausted, "67108928 MiB"},
		"more than the pool has":  {&vmstate.Adoption{Mode: vmstate.ModePrecopy, Regions: region(1 << 46)}, &vmstate.MemorySpec{Backing: vmstate.Hugetlb, PageBytes: 2 << 20}, vmstate.Exhausted, "huge pages"},
	} {
		t.Run(name, func(t *testing.T) {
			m := &machine{spec: vmstate.VMSpec{Name: "vm1"}, adoption: tt.adoption}
			set, err := m.copyMemoryLocked(tt.asked)
			if p := vmstate.ProblemOf(err); set != nil || err == nil || p.Kind() != tt.kind || !strings.Contains(p.Detail, tt.says) || p.Remedy == "" {
				t.Errorf("got %v, %+v", set, p)
			}
		})
	}
}
