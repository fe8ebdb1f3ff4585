package memory

import (
	"errors"
	"os"
	"slices"
	"sync"

	"qlive/vmstate"
)

// Want asks for one block of guest RAM.
type Want struct {
	Name      string // of QEMU's RAM block, such as pc.ram
	SizeBytes uint64 // a multiple of the page size
	PageBytes uint64 // 4096, 2097152 or 1073741824; 0 as the spec says
	// Populate allocates every page now, for a guest that was asked for with preallocated RAM: 0.2 s a GiB or
	// more. The memory is charged to the caller's cgroup, whose limit kills rather than fails.
	Populate bool
	// beside is the path of another file of the block's, which this one must not have.
	beside string
	// later: huge pages are promised to it as another file gives them up.
	later bool
}

// Set is the RAM of one VM: its files and their descriptors.
type Set struct {
	regions  []*Region
	warnings []string
	folder   *os.Root // of the hugetlbfs files; nil if there are none

	closing sync.Once
	closed  error
}

// Create makes the RAM of the VM named vm, one file for each of wants, or nothing at all.
//
// The spec says what a block is made of. A want with a page size of its own gets pages of that size: a memfd
// of ordinary pages, a memfd of huge pages, or, where the spec is hugetlbfs, a file there if the mount has
// that page size.
//
// The errors are vmstate's: Invalid for sizes, pages and folders that cannot be, Exhausted when the host has
// not enough memory or huge pages, Conflict for a file that exists, Unsupported for a page size that the
// host lacks, Host for the rest.
func Create(spec vmstate.MemorySpec, vm string, wants []Want) (*Set, error) {
	set, err := create(newHost(linux{}), spec, vm, wants)
	if err == nil && len(spec.Nodes) > 0 && slices.ContainsFunc(set.regions, func(r *Region) bool { return r.backing != vmstate.Memfd }) {
		set.warnings = append(set.warnings, "huge pages that the guest touches first come from whatever NUMA node its QEMU runs on: "+
			"bind that, or give the memory backend host-nodes= and policy=bind")
	}
	return set, err
}

func create(h host, spec vmstate.MemorySpec, vm string, wants []Want) (set *Set, err error) {
	plans, err := h.plan(spec, vm, wants)
	if err != nil {
		return nil, err
	}
	set = &Set{}
	defer func() {
		if err != nil {
			err = h.explain(errors.Join(err, set.Close()), vm, plans)
			set = nil
		}
	}()
	if set.warnings, err = h.checkOrdinary(vm, plans); err != nil {
		return set, err
	}
	for _, p := range plans {
		if p.backing == vmstate.Hugetlbfs && set.folder == nil {
			if set.folder, err = openFolder(spec.Path); err != nil {
				return set, err
			}
		}
		if err = set.add(h, p); err != nil {
			return set, err
		}
		if err = set.regions[len(set.regions)-1].bind(spec.Nodes); err != nil {
			return set, err
		}
	}
	return set, nil
}

// add makes the block p. The region joins the set as soon as there is something to undo.
func (s *Set) add(h host, p plan) error {
	file, err := h.make(p, s.folder)
	if err != nil {
		return err
	}
	r := &Region{plan: p, file: file, folder: s.folder}
	s.regions = append(s.regions, r)
	return h.fit(r)
}

// Regions are the blocks in the order of the wants; no set has none.
func (s *Set) Regions() []*Region {
	if s == nil {
		return nil
	}
	return append([]*Region(nil), s.regions...)
}

// SizeBytes is how much RAM all of the blocks are; no set has none.
func (s *Set) SizeBytes() (bytes uint64) {
	for _, r := range s.Regions() {
		bytes += r.SizeBytes()
	}
	return bytes
}

// Files are the blocks' files in the order of the wants: what QEMU inherits. They are closed on exec
// unless passed on, and stay the set's own.
func (s *Set) Files() []*os.File {
	files := make([]*os.File, len(s.regions))
	for i, r := range s.regions {
		files[i] = r.file
	}
	return files
}

// Warnings are what an administrator should know about this RAM though it works, a sentence each.
func (s *Set) Warnings() []string { return append([]string(nil), s.warnings...) }

// Close lets go of the RAM: descriptors are closed, files on hugetlbfs unlinked. The memory is free once no
// process maps it. A process that ends without Close leaves its QEMUs and their RAM as they are. Further calls
// return what the first did. No set is one that is closed.
func (s *Set) Close() error {
	if s == nil {
		return nil
	}
	s.closing.Do(func() {
		var errs []error
		for _, r := range s.regions {
			errs = append(errs, r.close())
		}
		if s.folder != nil {
			errs = append(errs, s.folder.Close())
		}
		s.closed = errors.Join(errs...)
	})
	return s.closed
}
