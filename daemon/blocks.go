package daemon

import (
	"context"
	"slices"
	"strings"

	"qlive/flip/memory"
	"qlive/internal/qmp"
	"qlive/vmstate"
)

// learnBlocks finds out what the guest's RAM is called in QEMU, and that it is there, whole. A backend's block has the name that the
// command line leads to expect, but where a device with a place on a bus uses it, such as virtio-mem: then the name begins with that place.
func (m *machine) learnBlocks(ctx context.Context, g *generation) error {
	blocks, err := g.side.Monitor.QueryRAMBlocks(ctx)
	if err != nil {
		return err
	}
	m.objects = make(map[string]string, len(g.line.Regions))
	for i, r := range m.memory.Regions() {
		block, ok := blockOf(r, blocks)
		if !ok {
			return vmstate.Errorf(vmstate.Unsupported, "cannot start %s: QEMU %s has no RAM block %s of %d bytes", m.spec.Name, g.side.Version, r.Name(), r.SizeBytes()).
				With("leave out memory that no device and no NUMA node uses")
		}
		r.Rename(block)
		m.objects[block] = g.line.Regions[i].ID
	}
	return nil
}

// blockOf is the name of r's block.
func blockOf(r *memory.Region, blocks []qmp.RAMBlock) (string, bool) {
	for _, fits := range []func(qmp.RAMBlock) bool{
		func(b qmp.RAMBlock) bool { return b.Name == r.Name() },
		func(b qmp.RAMBlock) bool { return strings.HasSuffix(b.Name, "/"+r.Name()) },
	} {
		if i := slices.IndexFunc(blocks, fits); i >= 0 {
			return blocks[i].Name, blocks[i].Used == r.SizeBytes()
		}
	}
	return "", false
}
