package flip

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"qlive/internal/hostram"
	"qlive/internal/proc"
	"qlive/internal/qmp"
	"qlive/vmstate"
)

// postcopyMode is for a guest whose RAM is private to its QEMU. Until the switch nothing of it is sent. Then QEMU stops the guest, sends its devices,
// and the target runs it on memory of qlive's, while the source sends page after page and frees each behind (postcopy-ram, release-ram);
// what the guest touches first is asked for first.
//
// The switch itself is the commitment, made when the source is told to switch: from there until the last page has come neither of the two has all of the
// guest. Until the target has run it, what has been sent can be brought back (package pageback); then there is no way back. docs/postcopy.md says what the
// death of each party means.
type postcopyMode struct {
	h   *Handoff
	way *postcopyWay
	at  map[string]proc.Range // where the source has each region, in its address space
}

func (m *postcopyMode) why() string {
	return "guest RAM is private to the source: the guest runs in the target while its pages follow, each freed behind; " +
		"from the switch until they have all come, neither side alone has the guest"
}

func (m *postcopyMode) ask() []step { return m.h.inspect() }

func (m *postcopyMode) prepare() []step {
	h := m.h
	return []step{
		{name: "verify-mapping", do: m.seeMapped},
		{name: "compare-blocks", do: h.compareBlocks},
		{name: "compare-devices", do: h.compareDevices},
		{name: "check-source-memory", do: m.checkSource},
		{name: "check-versions", do: m.checkVersions},
		{name: "set-capabilities", do: m.prepareTarget},
		{name: "send-ahead", do: m.way.prepare, undo: h.takeBack},
	}
}

func (m *postcopyMode) compareAgain(ctx context.Context) error {
	return errors.Join(m.h.compareBlocks(ctx), m.h.compareDevices(ctx), m.checkSource(ctx))
}

func (m *postcopyMode) approach() []step { return nil }

// lastProof ends with the beginning of QEMU's migration: all that it takes to set one up is behind us when the guest is to be switched.
func (m *postcopyMode) lastProof() []step {
	return []step{
		{name: "last-proof", do: m.verifyMapping},
		{name: "warm-target", do: m.h.warmTarget},
		{name: "begin", do: m.way.begin, undo: m.h.giveBack},
	}
}

func (m *postcopyMode) commit(ctx context.Context) error {
	return m.h.run(ctx, step{name: "run-target", do: m.way.runTarget, undo: m.way.bringBack})
}

func (m *postcopyMode) verifyMapping(context.Context) error { return m.h.mapsAll(m.h.target) }

// seeMapped proves that the target maps the new memory, and shows it.
func (m *postcopyMode) seeMapped(ctx context.Context) error {
	err := m.verifyMapping(ctx)
	m.h.publish()
	return err
}

// checkSource makes sure that what the source frees behind is free: of a file that it maps QEMU would free nothing, and all of the guest would be
// there twice.
func (m *postcopyMode) checkSource(ctx context.Context) error {
	h := m.h
	source := h.cfg.Source
	blocks, maps, err := hostram.Blocks(ctx, source.Monitor, source.Process.PID())
	if err != nil {
		return err
	}
	m.at = make(map[string]proc.Range)
	m.way.blocks = nil
	for _, b := range blocks {
		r := h.regionOf(b.Name)
		m.way.blocks = append(m.way.blocks, sourceBlock(b, r))
		if r == nil {
			continue
		}
		behind, err := hostram.Look(source.Process.PID(), maps, b)
		if err != nil {
			return err
		}
		if behind.Backing != vmstate.Private || !behind.Whole {
			return vmstate.Errorf(vmstate.Unsupported, "cannot hand %s over by postcopy: RAM block %s is not the source's private memory but %s", h.cfg.Migration.VM, b.Name, behind.Backing).
				With("use mode shared, for memory that others can map, too")
		}
		m.at[b.Name] = proc.Range{Start: b.HVA, End: b.HVA + r.SizeBytes()}
	}
	for _, r := range h.cfg.Memory.Regions() {
		if _, ok := m.at[r.Name()]; !ok {
			return vmstate.Errorf(vmstate.Incompatible, "cannot hand %s over by postcopy: the source has no RAM block %s", h.cfg.Migration.VM, r.Name())
		}
	}
	return nil
}

// checkVersions refuses a pair of versions of which it is known that the target may not load the guest: that would be found out only after the
// source has let go of it. See warnOfVersions.
func (m *postcopyMode) checkVersions(ctx context.Context) error {
	source, target := m.h.cfg.Source, m.h.target
	if !sizesQueuesTo1024(source.Version) || before(11, 1, target.Version) {
		return nil
	}
	shape, err := shapeOf(ctx, source.Monitor)
	if err != nil {
		return err
	}
	if !hasVirtio(shape) {
		return nil
	}
	return vmstate.Errorf(vmstate.Incompatible, "cannot hand %s over by postcopy from QEMU %s to %s: the queues of its virtio devices may have 1024 entries, "+
		"which the target does not load, and which would show only once the guest stands", m.h.cfg.Migration.VM, source.Version, target.Version).
		With("hand it to a QEMU before 11.1, or restart the guest")
}

// hasVirtio tells whether the guest has a virtio device. Network cards, serial ports, SCSI adapters, balloons and sources of randomness have been
// seen not to load; disks to load.
func hasVirtio(shape map[string]string) bool {
	for item, kind := range shape {
		if strings.HasPrefix(item, "device ") && strings.HasPrefix(kind, "virtio-") {
			return true
		}
	}
	return false
}

// before tells whether a version is before major.minor.
func before(major, minor int, version string) bool {
	var a, b int
	if _, err := fmt.Sscanf(version, "%d.%d", &a, &b); err != nil {
		return false
	}
	return a < major || a == major && b < minor
}

// prepareTarget tells the target that RAM will come late. QEMU looks there and then whether kernel, memory and its own rights allow it.
func (m *postcopyMode) prepareTarget(ctx context.Context) error {
	h := m.h
	err := h.capabilities(ctx, h.target, map[string]bool{
		qmp.CapEvents: true, qmp.CapReturnPath: true, qmp.CapPostcopyRAM: true, qmp.CapReleaseRAM: true, qmp.CapLateBlockActivate: true,
	})
	if refusal, ok := errors.AsType[*qmp.Error](err); ok {
		words := append([]string{refusal.Desc}, h.target.Process.Tail(1)...)
		return &vmstate.Error{
			Kind: vmstate.Unsupported, Detail: "cannot hand over by postcopy: the target QEMU may not, or cannot, fill memory while its guest runs", Words: slices.Compact(words), Err: err,
			Remedy: "QEMU needs userfaultfd: run it as root, or set vm.unprivileged_userfaultfd=1 with sysctl, or let its user open /dev/userfaultfd (QEMU 8.0 and later); its memory must not be locked (mlock)",
		}
	}
	return err
}
