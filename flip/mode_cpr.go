package flip

import (
	"context"
	"fmt"
	"slices"

	"qlive/internal/hostram"
	"qlive/internal/qmp"
	"qlive/vmstate"
)

// cprMode is QEMU's cpr-transfer: the source gives the target the descriptors of all of its memory, firmware and video memory too, so that only
// the devices are left to be sent. Whose the memory is does not matter; but the VM must have been started for it. What is not said here is
// as in mode shared.
type cprMode struct {
	sharedMode
	way *cprWay
}

func (m cprMode) why() string {
	return "the source gives the target the descriptors of all its memory (cpr-transfer), and nothing of it is copied"
}

func (m cprMode) ask() []step {
	return []step{
		{name: "check-cpr", do: m.possible},
		// QEMU forbids less in cpr-transfer than in a normal migration, and too little: with an image of vdi, vmdk and the like the target
		// would keep what it read of its tables before the source stopped. So what it forbids in either is in the way.
		{name: "inspect-source", do: m.h.inspectSource},
		{name: "set-mode", do: m.way.setMode, undo: m.h.takeBack},
		{name: "inspect-source-again", do: m.h.inspectSource},
		{name: "offer", do: m.way.offer},
	}
}

func (m cprMode) prepare() []step {
	h := m.h
	return []step{
		{name: "give", do: m.way.taken},
		{name: "verify-mapping", do: m.seeShared},
		{name: "compare-blocks", do: h.compareBlocks},
		{name: "compare-devices", do: h.compareDevices},
		{name: "set-capabilities", do: m.setCapabilities},
		{name: "send-ahead", do: m.way.prepare},
		{name: "populate", do: h.populate},
	}
}

func (m cprMode) lastProof() []step {
	return append([]step{{name: "source-waits", do: m.way.waits}, {name: "last-look-at-blocks", do: m.sameMemory}}, m.sharedMode.lastProof()...)
}

// possible says what is in the way of the mode, all of it at once, before the source is touched.
func (m cprMode) possible(ctx context.Context) error {
	facts, err := LookForFacts(ctx, m.h.cfg.Source, m.h.cfg.Objects)
	if err != nil {
		return err
	}
	facts.Target = m.h.Migration().To.Version
	_, err = ChooseMode(m.h.cfg.Migration.VM, vmstate.ModeCPR, facts)
	return err
}

func (m cprMode) setCapabilities(ctx context.Context) error {
	want := plainCapabilities()
	want[qmp.CapLateBlockActivate] = true
	return m.h.equip(ctx, m.h.target, want)
}

// seeShared proves the mapping of guest RAM and of all other blocks, and shows it.
func (m cprMode) seeShared(ctx context.Context) error {
	if err := m.h.seeMapped(ctx); err != nil {
		return err
	}
	return m.sameMemory(ctx)
}

// sameMemory proves that behind every RAM block of the two QEMUs lies the same memory: nothing of it is sent.
func (m cprMode) sameMemory(ctx context.Context) error {
	source, err := memoryOf(ctx, m.h.cfg.Source)
	if err != nil {
		return err
	}
	target, err := memoryOf(ctx, m.h.target)
	if err != nil {
		return err
	}
	return m.h.differ("memory", differences(source, target))
}

func memoryOf(ctx context.Context, side *Side) (map[string]hostram.Memory, error) {
	pid := side.Process.PID()
	blocks, maps, err := hostram.Blocks(ctx, side.Monitor, pid)
	if err != nil {
		return nil, err
	}
	all := make(map[string]hostram.Memory, len(blocks))
	for _, b := range blocks {
		if all[b.Name], err = hostram.Look(pid, maps, b); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// differences are the blocks that do not have the same file behind them, from the same place on, mapped shared by both.
func differences(source, target map[string]hostram.Memory) []string {
	var faults []string
	for name, s := range source {
		t := target[name]
		switch {
		case s.Backing == vmstate.Private || s.Backing == vmstate.PrivateFile || !s.Whole:
			faults = append(faults, fmt.Sprintf("%s: the source does not map all of it shared", name))
		case t.Backing == vmstate.Private || t.Backing == vmstate.PrivateFile || !t.Whole:
			faults = append(faults, fmt.Sprintf("%s: the target does not map all of it shared", name))
		case s.Inode != t.Inode || s.Dev != t.Dev || s.Offset != t.Offset:
			faults = append(faults, fmt.Sprintf("%s: inode %d in the source, %d in the target", name, s.Inode, t.Inode))
		}
	}
	slices.Sort(faults)
	return faults
}
