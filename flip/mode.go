package flip

import (
	"context"

	"qlive/vmstate"
)

// A mode is how guest RAM gets into the target, and what follows from that for the walk through the phases, which is the same for all. What the
// mode's [way] gives to the two QEMUs is undone by the way.
type mode interface {
	// why says in a few words what the mode does with this guest, for the migration's log.
	why() string
	// ask is what is asked of the source before the target is started: what its guest does, at least. What it has been given then is taken back
	// by the way's release.
	ask() []step
	// prepare is what is done once the target has been started, with the guest running in the source. It has the step of the way's own prepare.
	prepare() []step
	// compareAgain compares source and target once more, after they had time to change.
	compareAgain(context.Context) error
	// approach is what is done when nothing holds the handoff any more, with the guest running in the source: it may take long, and be cancelled. The
	// gate is held before and after it.
	approach() []step
	// lastProof is made between the word that the guest is being switched over and the way's switchOver: whoever listens has been told by
	// then, and does not take the processor from the two QEMUs while the guest stands.
	lastProof() []step
	// commit lets the target have the guest and returns once it has it: running, if h.resume, else as it stood. The intent is in the journal. It
	// sets h.told before the target can run, and gives a refusal if it is proved that it has not.
	commit(context.Context) error
	// drain enters draining, and returns once nothing of the guest is left in the source. An error means that the guest is lost, or that
	// a person must decide: the source is not ended then.
	drain(context.Context) error
}

// newMode makes the mode that is asked for, and the way that it switches over by.
func newMode(h *Handoff) (mode, way) {
	switch h.cfg.Mode {
	case vmstate.ModePostcopy:
		w := &postcopyWay{migrateWay: migrateWay{h: h}}
		return &postcopyMode{h: h, way: w}, w
	case vmstate.ModePrecopy:
		w := &precopyWay{migrateWay: migrateWay{h: h, live: true}}
		return precopyMode{sharedMode{h}, w}, w
	case vmstate.ModeCPR:
		w := &cprWay{migrateWay: migrateWay{h: h}}
		return cprMode{sharedMode{h}, w}, w
	}
	m := sharedMode{h}
	if h.cfg.Rehouse != nil {
		return rehousedMode{m}, &deviceWay{h: h}
	}
	switch h.cfg.Way {
	case vmstate.WayStopFirst:
		return m, &migrateWay{h: h}
	case vmstate.WayLive:
		return m, &migrateWay{h: h, live: true}
	default:
		return m, &deviceWay{h: h}
	}
}

// built refuses a mode that this qlive does not have, before anything is started.
func built(m vmstate.Mode) error {
	switch m {
	case vmstate.ModeShared, vmstate.ModeCPR, vmstate.ModePostcopy, vmstate.ModePrecopy:
		return nil
	}
	return vmstate.Errorf(vmstate.Unsupported, "cannot hand a guest over in mode %s: this qlive does not have it", m).
		With("leave the mode to qlive (auto), or use postcopy or precopy for a guest whose RAM is private to its QEMU")
}

// sharedMode is for a guest whose RAM is qlive's: both QEMUs map it, and nothing of it is copied.
type sharedMode struct{ h *Handoff }

func (m sharedMode) why() string {
	return "guest RAM is qlive's own and stays where it is; way " + string(m.h.cfg.Way)
}

func (m sharedMode) ask() []step { return m.h.inspect() }

// inspect is what every mode asks.
func (h *Handoff) inspect() []step { return []step{{name: "inspect-source", do: h.inspectSource}} }

func (m sharedMode) prepare() []step {
	return append(m.prove(), step{name: "populate", do: m.h.populate})
}

// prove compares the two QEMUs, and sends ahead what they do not share.
func (m sharedMode) prove() []step {
	h := m.h
	return []step{
		{name: "verify-mapping", do: h.seeMapped},
		{name: "compare-blocks", do: h.compareBlocks},
		{name: "compare-devices", do: h.compareDevices},
		{name: "set-capabilities", do: h.prepareTarget},
		{name: "send-ahead", do: h.way.prepare, undo: h.takeBack},
	}
}

func (m sharedMode) compareAgain(ctx context.Context) error {
	if err := m.h.compareBlocks(ctx); err != nil {
		return err
	}
	return m.h.compareDevices(ctx)
}

func (m sharedMode) approach() []step { return nil }

func (m sharedMode) lastProof() []step {
	return []step{{name: "last-proof", do: m.h.verifyMapping}, {name: "warm-target", do: m.h.warmTarget}, {name: "prime", do: m.h.prime, undo: m.h.unprime}}
}

func (m sharedMode) commit(ctx context.Context) error { return m.h.runLoaded(ctx) }

func (m sharedMode) drain(context.Context) error {
	m.h.flipped()
	m.h.noteExtra()
	m.h.mustEnter(vmstate.Draining)
	return nil
}

// runLoaded runs the target, which has loaded all of the guest, unless the guest stood.
func (h *Handoff) runLoaded(ctx context.Context) error {
	if !h.resume {
		return nil
	}
	err := h.step(ctx, step{name: "run-target", do: h.runTarget})
	if err != nil && !h.ran {
		return err
	}
	if err != nil {
		h.warn("the target runs the guest, but: %v", err)
	}
	return nil
}
