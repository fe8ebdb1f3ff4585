package memory

import (
	"errors"
	"fmt"
	"math/bits"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"qlive/vmstate"
)

// host is what the package knows of the machine: where its pools are described, and how to ask the kernel.
type host struct {
	kernel    kernel
	meminfo   string // path of /proc/meminfo
	mm        string // path of /sys/kernel/mm
	pageBytes uint64
}

func newHost(k kernel) host {
	return host{kernel: k, meminfo: "/proc/meminfo", mm: "/sys/kernel/mm", pageBytes: uint64(os.Getpagesize())}
}

// pool is what the host has of one size of huge page, in pages.
type pool struct {
	pageBytes uint64
	total     uint64 // nr_hugepages, which includes surplus
	free      uint64
	reserved  uint64 // of the free ones
	surplus   uint64
	overlimit uint64 // surplus pages allowed
}

// available is how many pages a new file may have.
func (p pool) available() uint64 {
	n := p.free - min(p.free, p.reserved)
	return n + p.overlimit - min(p.overlimit, p.surplus)
}

func (h host) poolDir(page uint64) string {
	return filepath.Join(h.mm, "hugepages", fmt.Sprintf("hugepages-%dkB", page>>10))
}

func (h host) pool(page uint64) (pool, error) {
	p := pool{pageBytes: page}
	for file, to := range map[string]*uint64{
		"nr_hugepages": &p.total, "free_hugepages": &p.free, "resv_hugepages": &p.reserved,
		"surplus_hugepages": &p.surplus, "nr_overcommit_hugepages": &p.overlimit,
	} {
		text, err := os.ReadFile(filepath.Join(h.poolDir(page), file))
		if err != nil {
			return p, vmstate.Errorf(vmstate.Host, "cannot read the huge page pool: %w", err)
		}
		if *to, err = strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64); err != nil {
			return p, vmstate.Errorf(vmstate.Host, "cannot understand %s of the huge page pool: %w", file, err)
		}
	}
	return p, nil
}

// checkHugePage makes sure that the host knows pages of p's size.
func (h host) checkHugePage(p plan) error {
	if bits.OnesCount64(p.pageBytes) == 1 {
		if _, err := os.Stat(h.poolDir(p.pageBytes)); err == nil {
			return nil
		}
	}
	return vmstate.Errorf(vmstate.Unsupported, "cannot make RAM block %q of pages of %s: this host has huge pages of %s",
		p.want.Name, bytesText(p.pageBytes), strings.Join(h.hugePages(), " and ")).
		With("choose one of these, or ordinary pages with backing memfd")
}

func (h host) hugePages() []string {
	dirs, _ := filepath.Glob(filepath.Join(h.mm, "hugepages", "hugepages-*kB"))
	var sizes []string
	for _, dir := range dirs {
		text := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(dir), "hugepages-"), "kB")
		if kib, err := strconv.ParseUint(text, 10, 54); err == nil {
			sizes = append(sizes, bytesText(kib<<10))
		}
	}
	if sizes == nil {
		return []string{"no size"}
	}
	return sizes
}

// defaultHugePage is the host's default size of a huge page.
func (h host) defaultHugePage() (uint64, error) { return h.memInfo("Hugepagesize") }

// memInfo is a row of /proc/meminfo in bytes.
func (h host) memInfo(row string) (uint64, error) {
	text, err := os.ReadFile(h.meminfo)
	if err != nil {
		return 0, vmstate.Errorf(vmstate.Host, "cannot read how much memory the host has: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(line, ":")
		if fields := strings.Fields(value); name == row && len(fields) == 2 && fields[1] == "kB" {
			if kib, err := strconv.ParseUint(fields[0], 10, 54); err == nil {
				return kib << 10, nil
			}
		}
	}
	return 0, vmstate.Errorf(vmstate.Host, "cannot find %s in %s", row, h.meminfo)
}

// checkOrdinary refuses ordinary RAM that the host could never hold, and warns of what it may not hold now or
// will hold less well than it could.
func (h host) checkOrdinary(vm string, plans []plan) (warnings []string, err error) {
	var need uint64
	for _, p := range plans {
		if p.backing == vmstate.Memfd {
			need += p.want.SizeBytes
		}
	}
	if need == 0 {
		return nil, nil
	}
	total, err := h.memInfo("MemTotal")
	if err != nil {
		return nil, err
	}
	huge, err := h.memInfo("Hugetlb") // set aside for the pools, and useless here
	if err != nil {
		return nil, err
	}
	if total -= min(total, huge); need > total {
		return nil, vmstate.Errorf(vmstate.Exhausted, "cannot make %d bytes of RAM for %s: besides its huge pages the host has %d bytes in all",
			need, vm, total).With("make the guest smaller")
	}
	available, err := h.memInfo("MemAvailable")
	if err != nil {
		return nil, err
	}
	if need > available {
		warnings = append(warnings, fmt.Sprintf(
			"the guest may come to use %d bytes of RAM, and the host has %d bytes available now", need, available))
	}
	if note := h.hugeShmem(); note != "" {
		warnings = append(warnings, note)
	}
	return warnings, nil
}

// hugeShmem says why ordinary RAM will not get transparent huge pages; "" if it will, or if the kernel has none.
func (h host) hugeShmem() string {
	path := filepath.Join(h.mm, "transparent_hugepage", "shmem_enabled")
	text, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	_, chosen, _ := strings.Cut(string(text), "[")
	chosen, _, _ = strings.Cut(chosen, "]")
	if chosen != "never" && chosen != "deny" {
		return ""
	}
	return fmt.Sprintf("guest RAM gets pages of %s only, since transparent huge pages for shared memory are set to %s; to allow them: echo advise > %s",
		bytesText(h.pageBytes), chosen, path)
}

// explain turns a want of huge pages into an error with the numbers. It is asked when everything is undone, so
// that the pool is as anyone else sees it.
func (h host) explain(err error, vm string, plans []plan) error {
	var short *shortage
	if !errors.As(err, &short) {
		return err
	}
	var need uint64
	for _, p := range plans {
		if p.pageBytes == short.plan.pageBytes && p.backing != vmstate.Memfd {
			need += p.want.SizeBytes / p.pageBytes
		}
	}
	return h.explainShort(err, short, vm, need)
}

// explainShort says that a VM wanted so many pages.
func (h host) explainShort(err error, short *shortage, vm string, need uint64) error {
	pool, poolErr := h.pool(short.plan.pageBytes)
	if poolErr != nil {
		return errors.Join(err, poolErr)
	}
	available := pool.available()
	e := vmstate.Errorf(vmstate.Exhausted,
		"cannot reserve %d huge pages of %s for %s: %d of the pool's %d are free and unreserved (%d free, %d of them reserved): %w",
		need, bytesText(pool.pageBytes), vm, available, pool.total, pool.free, pool.reserved, err)
	if need <= available {
		return e.With("the pool would do: look at the size limit of the hugetlbfs mount, the cgroup's hugetlb limits and the " +
			"processor set's memory nodes, or try again if another process took pages meanwhile")
	}
	return e.With(h.growPool(pool, pool.total-min(pool.total, pool.surplus)+need-available))
}

// growPool is the command that makes the pool pages large.
func (h host) growPool(p pool, pages uint64) string {
	command := fmt.Sprintf("echo %d > %s/nr_hugepages", pages, h.poolDir(p.pageBytes))
	if usual, err := h.defaultHugePage(); err == nil && usual == p.pageBytes {
		command = fmt.Sprintf("sysctl vm.nr_hugepages=%d", pages)
	}
	if p.pageBytes >= 1<<30 {
		command += fmt.Sprintf("; if memory is too fragmented for that, boot with hugepagesz=1G hugepages=%d", pages)
	}
	return command
}

// shortage is that huge pages for a block could not be had.
type shortage struct {
	plan plan
	err  error
}

func (s *shortage) Error() string {
	return fmt.Sprintf("RAM block %q of %d bytes: %v", s.plan.want.Name, s.plan.want.SizeBytes, s.err)
}
func (s *shortage) Unwrap() error { return s.err }

// noHugePage tells whether err says that there was no huge page: mmap says ENOMEM, fallocate ENOSPC, populating
// EFAULT.
func noHugePage(err error) bool {
	return errors.Is(err, unix.ENOMEM) || errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EFAULT)
}
