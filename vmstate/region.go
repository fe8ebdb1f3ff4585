package vmstate

import "slices"

// Backing is what holds a region's bytes on the host.
type Backing string

// The backings that qlive makes.
const (
	Memfd     Backing = "memfd"     // an anonymous file of ordinary pages, sealed in size
	Hugetlb   Backing = "hugetlb"   // an anonymous file of huge pages, sealed in size
	Hugetlbfs Backing = "hugetlbfs" // a named file on a hugetlbfs mount, 0600
)

// The backings that only a QEMU has which qlive did not start; it may also have one of the above.
const (
	Private     Backing = "private"          // anonymous pages of the process: nobody else can map them
	PrivateFile Backing = "private-file"     // a file mapped with share=off: what the guest writes is the process' own
	Anonymous   Backing = "shared-anonymous" // shared anonymous pages: a file without a name
	File        Backing = "file"             // a named file that is no huge pages, mapped with share=on
)

// Shared tells whether another process can map what b holds.
func (b Backing) Shared() bool { return b != Private && b != PrivateFile }

// MemorySpec says what guest RAM shall be made of. The zero value is a memfd of ordinary pages.
type MemorySpec struct {
	Backing   Backing `json:"backing,omitempty" enum:"memfd,hugetlb,hugetlbfs" doc:"what holds the guest's RAM"`
	PageBytes uint64  `json:"page_bytes,omitempty" doc:"size of a huge page in bytes: 2097152 or 1073741824; 0 takes the default"`
	Path      string  `json:"path,omitempty" doc:"the hugetlbfs mount or a folder in it, for backing hugetlbfs"`
	Nodes     []int   `json:"nodes,omitempty" doc:"NUMA nodes of the host that the RAM comes from; any if empty"`
}

// RegionState is how far a region has come on its way into the target QEMU. During one handoff it only
// ever goes forward, and goes back to Owned at once when the handoff is undone.
type RegionState string

// The states of a region, in order.
const (
	Owned     RegionState = "owned"     // only its own QEMU and qlive hold it
	Mapped    RegionState = "mapped"    // the target maps the same inode, shared, writable, whole
	Populated RegionState = "populated" // the target's page tables cover what the region holds
	Flipped   RegionState = "flipped"   // the target runs the guest on it
	Released  RegionState = "released"  // the source has let go of it
)

// RegionStates are the states in order.
func RegionStates() []RegionState { return []RegionState{Owned, Mapped, Populated, Flipped, Released} }

// Rank is the place of s in the order, -1 if it is no state.
func (s RegionState) Rank() int { return slices.Index(RegionStates(), s) }

// Region is a block of guest RAM, and how far it has come in the current or last handoff.
//
// DoneBytes counts each of the four steps (mapped, populated, flipped, released) for a quarter of the size,
// from what was observed; a step that is skipped counts once a later one is done.
type Region struct {
	Name      string      `json:"name"`
	SizeBytes uint64      `json:"size_bytes"`
	PageBytes uint64      `json:"page_bytes"`
	Backing   Backing     `json:"backing"`
	Inode     uint64      `json:"inode"`
	OwnerPID  int         `json:"owner_pid"`
	State     RegionState `json:"state"`

	MappedBytes    uint64 `json:"mapped_bytes"`
	PopulatedBytes uint64 `json:"populated_bytes"`
	FlippedBytes   uint64 `json:"flipped_bytes"`
	ReleasedBytes  uint64 `json:"released_bytes"`

	Progress   int    `json:"progress" doc:"0 to 100"`
	DoneBytes  uint64 `json:"done_bytes"`
	TotalBytes uint64 `json:"total_bytes"`
	// Note says what a step was skipped for, such as "not populated: 12288 of 65536 pages are holes".
	Note string `json:"note,omitempty"`
}

// Advance is r with state s, unless r is there or further already, and with its progress counted anew.
func (r Region) Advance(s RegionState) Region {
	if s.Rank() > r.State.Rank() {
		r.State = s
	}
	return r.counted()
}

// Observe is r with the larger of its own counts and the ones given: what has been seen is not unseen.
func (r Region) Observe(mapped, populated, flipped, released uint64) Region {
	r.MappedBytes = max(r.MappedBytes, min(mapped, r.SizeBytes))
	r.PopulatedBytes = max(r.PopulatedBytes, min(populated, r.SizeBytes))
	r.FlippedBytes = max(r.FlippedBytes, min(flipped, r.SizeBytes))
	r.ReleasedBytes = max(r.ReleasedBytes, min(released, r.SizeBytes))
	return r.counted()
}

// Reset is r as it was before any handoff, owned by the process pid.
func (r Region) Reset(pid int) Region {
	return Region{
		Name: r.Name, SizeBytes: r.SizeBytes, PageBytes: r.PageBytes, Backing: r.Backing, Inode: r.Inode,
		OwnerPID: pid, State: Owned, TotalBytes: r.SizeBytes,
	}
}

func (r Region) counted() Region {
	r.TotalBytes = r.SizeBytes
	steps := []uint64{r.MappedBytes, r.PopulatedBytes, r.FlippedBytes, r.ReleasedBytes}
	var done uint64
	for i, seen := range steps {
		if r.State.Rank() > i {
			seen = r.SizeBytes // the state says that this step is behind us, skipped or not
		}
		done += seen / uint64(len(steps))
	}
	if r.State == Released {
		done = r.SizeBytes
	}
	r.DoneBytes = max(r.DoneBytes, min(done, r.TotalBytes))
	if r.TotalBytes > 0 {
		r.Progress = int(r.DoneBytes * 100 / r.TotalBytes)
	}
	return r
}
