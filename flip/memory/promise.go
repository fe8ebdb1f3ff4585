package memory

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"qlive/vmstate"
)

// Promise has the kernel reserve huge pages for what of the file has neither a page nor a promise between two offsets, which are whole pages. The promise is
// the file's, whoever maps it, until a page that has come of it is freed: freeing a hole does not take it back. Ordinary pages need none.
//
// What the pool cannot promise is an error that [IsShort] knows; nothing has been promised then.
func (r *Region) Promise(from, to uint64) error {
	if r.backing == vmstate.Memfd || from >= to {
		return nil
	}
	at, err := unix.Mmap(int(r.file.Fd()), int64(from), int(to-from), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	switch {
	case err == nil:
		return os.NewSyscallError("munmap", unix.Munmap(at))
	case noHugePage(err):
		return &shortage{plan: r.plan, err: os.NewSyscallError("mmap", err)}
	default:
		return r.hostError("map", os.NewSyscallError("mmap", err))
	}
}

// IsShort tells whether err says that a pool had not enough huge pages.
func IsShort(err error) bool {
	_, short := errors.AsType[*shortage](err)
	return short
}

// ExplainShort makes a problem with the pool's numbers of an error that [IsShort] knows, for a VM that wanted so many bytes of huge pages; any other
// is returned as it is. It is asked when what had been promised has been given back.
func ExplainShort(err error, vm string, bytes uint64) error {
	short, ok := errors.AsType[*shortage](err)
	if !ok {
		return err
	}
	return newHost(linux{}).explainShort(err, short, vm, bytes/short.plan.pageBytes)
}

// Follows tells whether the pages that are freed of one file are those that another one can have, so that no pool need hold both: huge pages of one size, from
// whatever NUMA node.
func Follows(old, to *Region, nodes []int) bool { return follows(old.plan, to.plan, nodes) }

func follows(old, to plan, nodes []int) bool {
	return old.backing != vmstate.Memfd && to.backing != vmstate.Memfd && old.pageBytes == to.pageBytes && len(nodes) == 0
}
