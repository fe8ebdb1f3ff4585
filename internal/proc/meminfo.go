package proc

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Meminfo is what /proc/meminfo says, in bytes; huge pages of the default size in pages.
//
// Whether memory has doubled shows in Anon+Shmem and the huge pages in use. Available says nothing about it: freed pages
// lie on lists of each CPU for a while, hundreds of megabytes of them.
type Meminfo struct {
	Total, Free, Available uint64
	Anon, Shmem            uint64
	SwapTotal, SwapFree    uint64
	HugePages              uint64 // in the pool of the default size
	HugePagesFree          uint64
	HugePagesReserved      uint64
	HugePagesSurplus       uint64
	HugePageBytes          uint64 // the default size
	HugetlbBytes           uint64 // in the pools of all sizes
}

// ReadMeminfo reads the memory of the host.
func ReadMeminfo() (Meminfo, error) {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return Meminfo{}, fmt.Errorf("cannot read the host's memory: %w", err)
	}
	return ParseMeminfo(string(b))
}

// ParseMeminfo reads the text of a meminfo file.
func ParseMeminfo(text string) (Meminfo, error) {
	var m Meminfo
	err := parseValues(text, map[string]*uint64{
		"MemTotal": &m.Total, "MemFree": &m.Free, "MemAvailable": &m.Available, "AnonPages": &m.Anon, "Shmem": &m.Shmem,
		"SwapTotal": &m.SwapTotal, "SwapFree": &m.SwapFree,
		"HugePages_Total": &m.HugePages, "HugePages_Free": &m.HugePagesFree, "HugePages_Rsvd": &m.HugePagesReserved,
		"HugePages_Surp": &m.HugePagesSurplus, "Hugepagesize": &m.HugePageBytes, "Hugetlb": &m.HugetlbBytes,
	})
	if err != nil {
		return Meminfo{}, fmt.Errorf("cannot read the host's memory: %w", err)
	}
	return m, nil
}

// Pool is the pool of huge pages of one size, counted in pages.
type Pool struct {
	PageBytes  uint64
	Total      uint64
	Free       uint64
	Reserved   uint64 // of the free ones, promised to mappings that have not touched them
	Surplus    uint64 // above the pool's size, to be given back
	Overcommit uint64 // surplus pages that may be made
}

// Available is how many pages a new mapping can have: free, promised to nobody.
func (p Pool) Available() uint64 {
	if p.Reserved > p.Free {
		return 0
	}
	return p.Free - p.Reserved
}

// ReadPools reads the pools of huge pages, the smallest pages first. A kernel without huge pages has none.
func ReadPools() ([]Pool, error) { return readPools("/sys/kernel/mm/hugepages") }

func readPools(dir string) ([]Pool, error) {
	entries, err := os.ReadDir(dir)
	if os.IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the pools of huge pages: %w", err)
	}
	var pools []Pool
	for _, e := range entries {
		size, ok := poolSize(e.Name())
		if !ok {
			continue
		}
		p := Pool{PageBytes: size}
		for name, into := range map[string]*uint64{
			"nr_hugepages": &p.Total, "free_hugepages": &p.Free, "resv_hugepages": &p.Reserved,
			"surplus_hugepages": &p.Surplus, "nr_overcommit_hugepages": &p.Overcommit,
		} {
			if *into, err = readNumber(filepath.Join(dir, e.Name(), name)); err != nil {
				return nil, fmt.Errorf("cannot read the pool of %d-byte pages: %w", size, err)
			}
		}
		pools = append(pools, p)
	}
	slices.SortFunc(pools, func(a, b Pool) int { return int(min(a.PageBytes, 1<<40)) - int(min(b.PageBytes, 1<<40)) })
	return pools, nil
}

// poolSize reads a pool's name, such as hugepages-2048kB.
func poolSize(name string) (uint64, bool) {
	text, ok := strings.CutPrefix(name, "hugepages-")
	text, ok2 := strings.CutSuffix(text, "kB")
	n, err := strconv.ParseUint(text, 10, 40)
	return n * 1024, ok && ok2 && err == nil
}

func readNumber(path string) (uint64, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
}
