package cli

import (
	"errors"

	"github.com/spf13/cobra"

	"qlive/vmstate"
)

// newMemory is what can be said on the command line of what a guest's memory shall be made of from a handoff on.
type newMemory struct {
	hugepages, hugetlbfs string
	memfd                bool
	nodes                []int
}

func (n *newMemory) flags(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&n.hugepages, "hugepages", "", "move the guest's memory into huge pages of this size: 2M or 1G")
	f.StringVar(&n.hugetlbfs, "hugetlbfs", "", "move it into a file on this hugetlbfs mount")
	f.BoolVar(&n.memfd, "memfd", false, "move it into ordinary pages")
	f.IntSliceVar(&n.nodes, "numa-node", nil, "NUMA nodes of the host that the new memory comes from")
}

// spec is nil if memory stays as it is.
func (n *newMemory) spec(a *app) (*vmstate.MemorySpec, error) {
	huge := n.hugepages != "" || n.hugetlbfs != ""
	switch {
	case n.memfd && huge:
		return nil, usageError{errors.New("--memfd means ordinary pages: leave out --hugepages and --hugetlbfs")}
	case !n.memfd && !huge && len(n.nodes) > 0:
		return nil, usageError{errors.New("--numa-node is for new memory: say --memfd, --hugepages or --hugetlbfs, too")}
	case !n.memfd && !huge:
		return nil, nil //nolint:nilnil // as it is
	}
	spec := vmstate.MemorySpec{Backing: vmstate.Memfd}
	if huge {
		var err error
		if spec, err = a.memory(n.hugepages, n.hugetlbfs); err != nil {
			return nil, err
		}
	}
	spec.Nodes = n.nodes
	return &spec, nil
}
