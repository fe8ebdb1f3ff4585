package flip

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"

	"golang.org/x/sys/unix"

	"qlive/flip/memory"
	"qlive/internal/proc"
	"qlive/internal/qmp"
	"qlive/vmstate"
)

// verifyMapping proves from /proc/PID/maps that both QEMUs map the very inodes of the guest's RAM, shared, writable and
// whole. Anything less would run the guest on other memory.
func (h *Handoff) verifyMapping(context.Context) error {
	if err := h.mapsAll(h.cfg.Source); err != nil {
		return err
	}
	return h.mapsAll(h.target)
}

// mapsAll is verifyMapping of one side.
func (h *Handoff) mapsAll(side *Side) error {
	maps, err := proc.ReadMaps(side.Process.PID())
	if err != nil {
		return err
	}
	if len(maps) == 0 {
		return fmt.Errorf("cannot read the mappings of QEMU %s with pid %d: it has ended: %w", side.Version, side.Process.PID(), unix.ESRCH)
	}
	for _, r := range h.memoryOf(side).Regions() {
		if err := r.CheckSize(); err != nil {
			return err
		}
		mapped := mappedBytes(maps, r)
		if mapped < r.SizeBytes() {
			return vmstate.Errorf(vmstate.Incompatible,
				"cannot use QEMU %s with pid %d: it maps %d of %d bytes of RAM block %s (inode %d) shared and writable",
				side.Version, side.Process.PID(), mapped, r.SizeBytes(), r.Name(), r.Inode()).
				With("the binary must pass QEMU's arguments and its inherited descriptors on unchanged")
		}
		if side == h.target {
			h.observe(r.Name(), vmstate.Mapped, mapped, 0, 0, 0)
		}
	}
	return nil
}

// mappings are those of r that are shared and writable, by their place in the file.
func mappings(maps []proc.Mapping, r *memory.Region) []proc.Mapping {
	var own []proc.Mapping
	for _, m := range maps {
		if m.Inode == r.Inode() && m.DevMajor == unix.Major(r.Dev()) && m.DevMinor == unix.Minor(r.Dev()) && m.Shared && m.Read && m.Write {
			own = append(own, m)
		}
	}
	sort.Slice(own, func(i, j int) bool { return own[i].Offset < own[j].Offset })
	return own
}

// mappedBytes is how much of r is mapped, counted from its start without a gap.
func mappedBytes(maps []proc.Mapping, r *memory.Region) uint64 {
	var end uint64
	for _, m := range mappings(maps, r) {
		if m.Offset > end {
			break
		}
		end = max(end, m.Offset+m.Len())
	}
	return min(end, r.SizeBytes())
}

// compareBlocks makes sure that both QEMUs have the same RAM blocks: a block that only one has, or of another size, would be
// found only while the guest stands, or never.
func (h *Handoff) compareBlocks(ctx context.Context) error {
	source, err := blocksOf(ctx, h.cfg.Source)
	if err != nil {
		return err
	}
	target, err := blocksOf(ctx, h.target)
	if err != nil {
		return err
	}
	var faults []string
	for name, s := range source {
		t, ok := target[name]
		switch {
		case !ok:
			faults = append(faults, fmt.Sprintf("%s: only the source has it", name))
		case s.Total != t.Total:
			faults = append(faults, fmt.Sprintf("%s: %d bytes in the source, %d in the target", name, s.Total, t.Total))
		case s.Used != t.Used && s.Used == s.Total: // not resizeable
			faults = append(faults, fmt.Sprintf("%s: %d bytes used in the source, %d in the target", name, s.Used, t.Used))
		case s.PageSize != t.PageSize && h.regionOf(name) != nil && !h.copies():
			faults = append(faults, fmt.Sprintf("%s: pages of %d bytes in the source, %d in the target", name, s.PageSize, t.PageSize))
		}
	}
	for name := range target {
		if _, ok := source[name]; !ok {
			faults = append(faults, fmt.Sprintf("%s: only the target has it", name))
		}
	}
	for _, r := range h.cfg.Memory.Regions() {
		if _, ok := source[r.Name()]; !ok {
			faults = append(faults, fmt.Sprintf("%s: guest RAM that the source does not know", r.Name()))
		}
	}
	return h.differ("RAM blocks", faults)
}

// copies tells whether the target has other files than the source, so that their pages may be of another size.
func (h *Handoff) copies() bool { return h.new.set != nil || h.cfg.Mode == vmstate.ModePrecopy }

func blocksOf(ctx context.Context, side *Side) (map[string]qmp.RAMBlock, error) {
	list, err := side.Monitor.QueryRAMBlocks(ctx)
	if err != nil {
		return nil, fmt.Errorf("cannot list the RAM blocks of QEMU %s: %w", side.Version, err)
	}
	blocks := make(map[string]qmp.RAMBlock, len(list))
	for _, b := range list {
		blocks[b.Name] = b
	}
	return blocks, nil
}

func (h *Handoff) regionOf(block string) *memory.Region {
	for _, r := range h.cfg.Memory.Regions() {
		if r.Name() == block {
			return r
		}
	}
	return nil
}

// differ is the problem that faults make, if there are any.
func (h *Handoff) differ(what string, faults []string) error {
	if len(faults) == 0 {
		return nil
	}
	slices.Sort(faults)
	return vmstate.Errorf(vmstate.Incompatible, "cannot hand over: the two QEMUs do not agree on their %s: %s", what, strings.Join(faults, "; ")).
		With("the target must make the same machine: check what a wrapper script adds or drops, and the firmware files it finds")
}

// compareDevices makes sure that the target has the devices of the source, no fewer and no more, and the same CPU. QEMU itself
// does not notice a device that only the target has, nor a CPU that can do less: neither is in the stream.
func (h *Handoff) compareDevices(ctx context.Context) error {
	source, err := shapeOf(ctx, h.cfg.Source.Monitor)
	if err != nil {
		return fmt.Errorf("cannot list the source's devices: %w", err)
	}
	target, err := shapeOf(ctx, h.target.Monitor)
	if err != nil {
		return fmt.Errorf("cannot list the target's devices: %w", err)
	}
	var faults []string
	for item, value := range source {
		if other, ok := target[item]; !ok {
			faults = append(faults, fmt.Sprintf("%s (%s): only the source has it", item, value))
		} else if other != value {
			faults = append(faults, fmt.Sprintf("%s: %s in the source, %s in the target", item, value, other))
		}
	}
	for item, value := range target {
		if _, ok := source[item]; !ok {
			faults = append(faults, fmt.Sprintf("%s (%s): only the target has it", item, value))
		}
	}
	return h.differ("devices", faults)
}

// shapeOf describes what the guest sees of a machine: an entry for each thing, with what must be equal.
func shapeOf(ctx context.Context, m *qmp.Client) (map[string]string, error) {
	shape := make(map[string]string)
	var machine string
	if err := m.QOMGet(ctx, "/machine", "type", &machine); err != nil {
		return nil, err
	}
	shape["machine"] = machine
	for _, folder := range []string{"/machine/peripheral", "/machine/peripheral-anon"} {
		list, err := m.QOMList(ctx, folder)
		if err != nil {
			return nil, err
		}
		for _, p := range list {
			kind, ok := p.Child()
			if !ok {
				continue
			}
			place, err := pciPlace(ctx, m, folder+"/"+p.Name)
			if err != nil {
				return nil, err
			}
			shape["device "+strings.TrimPrefix(folder, "/machine/")+"/"+p.Name] = kind + place
		}
	}
	if err := pciShape(ctx, m, shape); err != nil {
		return nil, err
	}
	return shape, cpuShape(ctx, m, shape)
}

// pciPlace tells on which bus and where on it a device sits; nothing if it is not one of PCI. query-pci does not tell it of a device
// behind a bridge whose bus has no number yet, which a guest's firmware gives it: in a target none has.
func pciPlace(ctx context.Context, m *qmp.Client, path string) (string, error) {
	properties, err := m.QOMList(ctx, path)
	if err != nil {
		return "", err
	}
	has := func(name string) bool {
		return slices.ContainsFunc(properties, func(p qmp.QOMProperty) bool { return p.Name == name })
	}
	if !has("addr") || !has("parent_bus") {
		return "", nil
	}
	var bus string
	var addr any // slot and function
	if err := m.QOMGet(ctx, path, "parent_bus", &bus); err != nil {
		return "", err
	}
	if err := m.QOMGet(ctx, path, "addr", &addr); err != nil {
		return "", err
	}
	return fmt.Sprintf(" at %s/%v", bus[strings.LastIndexByte(bus, '/')+1:], addr), nil
}

// pciShape adds who sits on the root buses: there are devices that the machine makes itself. Those behind bridges are all the user's.
func pciShape(ctx context.Context, m *qmp.Client, shape map[string]string) error {
	buses, err := m.QueryPCI(ctx)
	if err != nil {
		return err
	}
	for _, b := range buses {
		for _, d := range b.Devices {
			place := fmt.Sprintf("pci %02x:%02x.%x", b.Bus, d.Slot, d.Function)
			shape[place] = fmt.Sprintf("%04x:%04x class %04x", d.ID.Vendor, d.ID.Device, d.ClassInfo.Class)
		}
	}
	return nil
}

// featureWord is an entry of an x86 CPU's property feature-words.
type featureWord struct {
	Leaf     uint32  `json:"cpuid-input-eax"`
	Sub      *uint32 `json:"cpuid-input-ecx"`
	Register string  `json:"cpuid-register"`
	Features uint32  `json:"features"`
}

// topologyBits are bits of w that follow from -smp alone. QEMU before 10.0 sets them as the guest asks (cpu_x86_cpuid), later ones when
// the CPU is made (target/i386/cpu.c), so that the property differs and the guest sees the same.
func topologyBits(w featureWord) uint32 {
	const htt, cmpLegacy = 1 << 28, 1 << 1
	switch {
	case w.Leaf == 1 && w.Register == "EDX":
		return htt
	case w.Leaf == 0x80000001 && w.Register == "ECX":
		return cmpLegacy
	}
	return 0
}

// cpuShape adds how many CPUs there are, their model and the CPUID bits that the guest is shown.
func cpuShape(ctx context.Context, m *qmp.Client, shape map[string]string) error {
	cpus, err := m.QueryCPUsFast(ctx)
	if err != nil {
		return err
	}
	for _, cpu := range cpus {
		var model string
		if err := m.QOMGet(ctx, cpu.QOMPath, "type", &model); err != nil {
			return err
		}
		shape[fmt.Sprintf("cpu %d", cpu.Index)] = model
	}
	if len(cpus) == 0 {
		return nil
	}
	var words []featureWord
	if err := m.QOMGet(ctx, cpus[0].QOMPath, "feature-words", &words); err != nil {
		if _, refused := errors.AsType[*qmp.Error](err); refused {
			return nil // not an x86 CPU
		}
		return err
	}
	for _, w := range words {
		w.Features &^= topologyBits(w)
		if w.Features == 0 {
			continue // a leaf that an older QEMU does not know is a leaf without features
		}
		name := fmt.Sprintf("cpuid %#x", w.Leaf)
		if w.Sub != nil {
			name += fmt.Sprintf(".%d", *w.Sub)
		}
		shape[name+" "+w.Register] = fmt.Sprintf("%#08x", w.Features)
	}
	return nil
}
