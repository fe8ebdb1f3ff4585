package memory

import (
	"errors"
	"os"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"

	"qlive/vmstate"
)

// Remake makes a second set of the same blocks on another backing, empty, for a guest whose RAM is to be moved there. The spec alone says what it
// is made of, whatever the guest's command line asked for. Huge pages are promised for all of it, but where it [Follows] the old set: there they are promised
// as the old one gives them up, by whoever moves the RAM, and here only what the old one may have lost is promised to it again.
//
// The errors are those of [Create]; Invalid too where the blocks lie on such a backing already.
func Remake(old *Set, spec vmstate.MemorySpec, vm string) (*Set, error) {
	return remake(newHost(linux{}), old, spec, vm)
}

func remake(h host, old *Set, spec vmstate.MemorySpec, vm string) (*Set, error) {
	var wants []Want
	for _, r := range old.regions {
		wants = append(wants, Want{Name: r.Name(), SizeBytes: r.SizeBytes(), beside: r.path})
	}
	plans, err := h.plan(spec, vm, wants)
	if err != nil {
		return nil, err
	}
	if err := differs(old, plans, vm, spec); err != nil {
		return nil, err
	}
	if err := h.checkMoved(old, plans, vm); err != nil {
		return nil, err
	}
	for i, p := range plans {
		if wants[i].later = follows(old.regions[i].plan, p, spec.Nodes); !wants[i].later {
			continue
		}
		if err := h.promiseAll(old.regions[i], vm); err != nil {
			return nil, err
		}
	}
	return create(h, spec, vm, wants)
}

// differs refuses to move RAM to where it is.
func differs(old *Set, plans []plan, vm string, spec vmstate.MemorySpec) error {
	for i, p := range plans {
		r := old.regions[i]
		if p.backing != r.backing || p.pageBytes != r.pageBytes || p.backing == vmstate.Hugetlbfs || len(spec.Nodes) > 0 {
			return nil
		}
	}
	return vmstate.Errorf(vmstate.Invalid, "cannot move the RAM of %s: it is made of %s with pages of %s already",
		vm, plans[0].backing, bytesText(plans[0].pageBytes)).With("leave the new memory out: the guest keeps what it has")
}

// checkMoved refuses ordinary RAM for what lies in huge pages now, if the host has no room for it: what is freed behind goes back to the pool, and is
// of no use here.
func (h host) checkMoved(old *Set, plans []plan, vm string) error {
	var need uint64
	for i, p := range plans {
		if r := old.regions[i]; p.backing == vmstate.Memfd && r.backing != vmstate.Memfd {
			n, err := r.AllocatedBytes()
			if err != nil {
				return err
			}
			need += n
		}
	}
	if need == 0 {
		return nil
	}
	available, err := h.memInfo("MemAvailable")
	if err != nil || need < available {
		return err
	}
	return vmstate.Errorf(vmstate.Exhausted, "cannot move the RAM of %s: %d bytes of it are in huge pages, and besides those the host has %d bytes available",
		vm, need, available).With("free memory, or make the pool smaller by huge pages that nobody uses")
}

// promiseAll has all of a file promised: what a balloon took has lost its promise.
func (h host) promiseAll(r *Region, vm string) error {
	err := r.Promise(0, r.SizeBytes())
	short, ok := errors.AsType[*shortage](err)
	if !ok {
		return err
	}
	n, statErr := r.AllocatedBytes()
	if statErr != nil {
		return statErr
	}
	return h.explainShort(err, short, vm, (r.SizeBytes()-min(n, r.SizeBytes()))/r.pageBytes)
}

// Bind has the pages that appear in a mapping of a file come from some of the host's NUMA nodes only; none stands for any. A memfd of ordinary pages
// remembers it, whoever touches a page; huge pages are bound only as they are touched through this mapping.
func Bind(room []byte, nodes []int) error {
	if len(nodes) == 0 || len(room) == 0 {
		return nil
	}
	const most = 1024
	var mask [most / 64]uint64
	for _, n := range nodes {
		if n < 0 || n >= most {
			return vmstate.Errorf(vmstate.Invalid, "cannot bind RAM to NUMA node %d: there is no such node", n)
		}
		mask[n/64] |= 1 << (n % 64)
	}
	const bind = 2 // MPOL_BIND
	_, _, errno := unix.Syscall6(unix.SYS_MBIND, uintptr(unsafe.Pointer(unsafe.SliceData(room))), uintptr(len(room)), bind,
		uintptr(unsafe.Pointer(&mask)), most, 0)
	if errno != 0 {
		return vmstate.Errorf(vmstate.Invalid, "cannot bind RAM to NUMA nodes %v: %w", nodes, os.NewSyscallError("mbind", errno)).
			With("name nodes of this host that have memory: cat /sys/devices/system/node/has_memory")
	}
	return nil
}

// bind makes the file remember the nodes, and finds out whether there are such.
func (r *Region) bind(nodes []int) error {
	if len(nodes) == 0 {
		return nil
	}
	room, err := unix.Mmap(int(r.file.Fd()), 0, int(r.SizeBytes()), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_NORESERVE)
	if err != nil {
		return r.hostError("map", err)
	}
	return errors.Join(Bind(room, slices.Clone(nodes)), unix.Munmap(room))
}
