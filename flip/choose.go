package flip

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"qlive/internal/qmp"
	"qlive/vmstate"
)

// Facts are what the choice of a mode rests on.
type Facts struct {
	Source, Target string // versions; the target's may be empty: then nothing is said against it yet
	AuxRAMShare    bool   // the machine has aux-ram-share=on, so that a target can be given firmware and video memory, too
	RAM            []RAM  // all of the guest's
}

// RAM is a piece of guest RAM: a memory backend of the source.
type RAM struct {
	ID string // of the backend
	// Shared: the source has it mapped shared. Held: qlive holds the file behind it, and makes the target map that.
	Shared, Held bool
}

// Choice is a mode and why it was chosen.
type Choice struct {
	Mode vmstate.Mode
	Why  string
}

// LookForFacts asks the source for all but the target's version. Objects are the memory backends whose files qlive holds, by RAM block.
func LookForFacts(ctx context.Context, source *Side, objects map[string]string) (Facts, error) {
	f := Facts{Source: source.Version}
	err := source.Monitor.QOMGet(ctx, "/machine", "aux-ram-share", &f.AuxRAMShare)
	if _, refused := errors.AsType[*qmp.Error](err); err != nil && !refused { // before 10.0 there is no such property
		return f, err
	}
	backends, err := source.Monitor.QueryMemdev(ctx)
	if err != nil {
		return f, err
	}
	for _, b := range backends {
		held := slices.Contains(slices.Collect(maps.Values(objects)), b.ID)
		f.RAM = append(f.RAM, RAM{ID: b.ID, Shared: b.Share, Held: held})
	}
	return f, nil
}

// ChooseMode gives the mode of a handoff. Auto is the first that can work without new risk: shared, then cpr. The others keep the guest for a
// while where no single QEMU has all of it, or need room for a second copy: they are taken only by name. Of a mode that was asked for by name
// it says what is in the way; whether QEMU forbids it shows when it is asked. Errors are of kind Unsupported.
func ChooseMode(vm string, asked vmstate.Mode, f Facts) (Choice, error) {
	switch asked {
	case "", vmstate.ModeAuto:
		return chooseSafe(vm, f)
	case vmstate.ModeCPR:
		if faults := f.againstCPR(); len(faults) > 0 {
			return Choice{}, vmstate.Errorf(vmstate.Unsupported, "cannot hand %s over in mode cpr: %s", vm, strings.Join(faults, "; ")).
				With("leave the mode to qlive (auto), or start the guest in QEMU 10.0 or later with -machine …,aux-ram-share=on and memory backends with share=on")
		}
	}
	return Choice{asked, "asked for by name"}, built(asked)
}

func chooseSafe(vm string, f Facts) (Choice, error) {
	shared, cpr := f.againstShared(), f.againstCPR()
	switch {
	case len(shared) == 0:
		return Choice{vmstate.ModeShared, "it is the first of all that can be taken"}, nil
	case len(cpr) == 0:
		return Choice{vmstate.ModeCPR, "not shared, for " + strings.Join(shared, "; ")}, nil
	}
	return Choice{}, vmstate.Errorf(vmstate.Unsupported, "cannot hand %s over without new risk: not in mode shared: %s; not in mode cpr: %s", vm,
		strings.Join(shared, "; "), strings.Join(cpr, "; ")).
		With("remove what is in the way of shared; where that is private memory, read what modes postcopy and precopy mean and ask for one by name")
}

// againstShared is what is in the way of mode shared. Of what kind a shared backend is does not matter: by way
// device_state qlive says itself what is not sent.
func (f Facts) againstShared() (faults []string) {
	for _, r := range f.RAM {
		switch {
		case !r.Shared:
			faults = append(faults, fmt.Sprintf("memory backend %s is private to its QEMU", r.ID))
		case !r.Held:
			faults = append(faults, fmt.Sprintf("qlive does not hold the memory of backend %s", r.ID))
		}
	}
	return faults
}

// againstCPR is what is in the way of mode cpr.
func (f Facts) againstCPR() (faults []string) {
	if before(10, 0, f.Source) {
		faults = append(faults, fmt.Sprintf("the guest is in QEMU %s, and cpr-transfer is there since 10.0", f.Source))
	}
	if before(10, 0, f.Target) {
		faults = append(faults, fmt.Sprintf("the target is QEMU %s, and cpr-transfer is there since 10.0", f.Target))
	}
	if !f.AuxRAMShare {
		faults = append(faults, "the guest was started without -machine …,aux-ram-share=on")
	}
	for _, r := range f.RAM {
		if !r.Shared {
			faults = append(faults, fmt.Sprintf("memory backend %s is private to its QEMU (no share=on)", r.ID))
		}
	}
	return faults
}
