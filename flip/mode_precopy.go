package flip

import (
	"context"
	"fmt"

	"qlive/internal/qmp"
	"qlive/vmstate"
)

// precopyMode is for any guest, and meant for those whose RAM can neither be shared nor moved: QEMU's own migration copies all of it into new memory of qlive's while the
// guest runs, and the source keeps everything. So until the target runs there is always a way back, as in mode shared, and for a while the host
// has the guest's RAM twice. What is not said here is as in mode shared.
type precopyMode struct {
	sharedMode
	way *precopyWay
}

func (m precopyMode) why() string {
	return fmt.Sprintf("guest RAM is copied into new memory, and the host has it twice meanwhile, %d MiB more than now", m.h.cfg.Memory.SizeBytes()>>20)
}

func (m precopyMode) ask() []step {
	return []step{{name: "choose-way", do: m.chooseWay}, {name: "inspect-source", do: m.h.inspectSource}}
}

// losesChanges tells whether a QEMU does not notice all that its guest changes while it is copied. Before 9.0, and without KVM, the translated code goes on to write to a page
// without a word after the page has been sent (physmem: "Fix migration dirty bitmap coherency with TCG memory access"; guests of 7.2.22 crash in the target).
func losesChanges(ctx context.Context, source *Side) (bool, error) {
	if !before(9, 0, source.Version) {
		return false, nil
	}
	var kvm struct {
		Enabled bool `json:"enabled"`
	}
	err := source.Monitor.Do(ctx, "query-kvm", nil, &kvm)
	return !kvm.Enabled, err
}

// copyRate is what QEMU sends at the least, in bytes a second, of a guest that stands.
const copyRate = 250 << 20

// chooseWay has the guest stand while it is copied if it would not be copied whole otherwise, and refuses if that takes longer than it may stand.
func (m precopyMode) chooseWay(ctx context.Context) error {
	h := m.h
	loses, err := losesChanges(ctx, h.cfg.Source)
	if err != nil || !loses {
		return err
	}
	m.way.live, h.cfg.Way = false, vmstate.WayStopFirst
	us := int64(m.h.cfg.Memory.SizeBytes() * 1e6 / copyRate)
	h.change(func(v *vmstate.Migration) { v.Way, v.EstimateUS = h.cfg.Way, &us })
	h.logf("QEMU %s without KVM loses track of what the guest changes, so the guest stands while it is copied, for about %d ms; way %s", h.cfg.Source.Version, us/1000, h.cfg.Way)
	if us <= int64(h.cfg.Spec.MaxPauseMS)*1000 {
		return nil
	}
	return vmstate.Errorf(vmstate.Timeout, "cannot copy the RAM of %s within max_pause_ms, %d ms: QEMU %s without KVM loses track of what a running guest changes, so the guest has to stand, for about %d ms",
		h.cfg.Migration.VM, h.cfg.Spec.MaxPauseMS, h.cfg.Source.Version, us/1000).
		With(fmt.Sprintf("if the guest may stand so long, say so with max_pause_ms (--max-pause) of %d or more", int64(float64(us)/1000*estimateMargin)+1))
}

func (m precopyMode) prepare() []step {
	h := m.h
	return []step{
		{name: "verify-mapping", do: m.seeMapped},
		{name: "compare-blocks", do: h.compareBlocks},
		{name: "compare-devices", do: h.compareDevices},
		{name: "set-capabilities", do: m.prepareTarget},
		{name: "populate", do: m.fill},
		{name: "send-ahead", do: m.way.prepare, undo: h.takeBack},
	}
}

// fill has the target allocate the new memory now. It will be allocated anyway, since QEMU writes or reads every page of it. But a page that is zero in the source is nine bytes on its
// way, so that what the channel holds may be hundreds of MiB to the target, and a guest that is copied at one go would stand until it has found room for all of them.
func (m precopyMode) fill(ctx context.Context) error {
	for _, r := range m.h.cfg.Memory.Regions() {
		switch {
		case m.h.cfg.Spec.Populate == "never":
			m.h.noteRegion(r.Name(), "not populated: asked not to")
		case r.Backing() != vmstate.Memfd: // QEMU does not where it was told not to reserve them (reserve=off); and they are few
			m.h.noteRegion(r.Name(), "not populated: huge pages are set aside already")
		default:
			if err := m.h.populateRegion(ctx, r); err != nil {
				return err
			}
		}
	}
	return nil
}

// approach copies. It is not begun while the handoff is held: what has been copied would have to be copied again and again for as long as that lasts, and the source
// stops its guest by itself once it has copied enough.
func (m precopyMode) approach() []step {
	if !m.way.live {
		return nil
	}
	return []step{{name: "copy", do: m.way.copy, undo: m.h.giveBack}}
}

// lastProof has nothing left to do where the guest stands already.
func (m precopyMode) lastProof() []step {
	if m.way.live {
		return nil
	}
	return []step{{name: "last-proof", do: m.seeMapped}, {name: "warm-target", do: m.h.warmTarget}, {name: "prime", do: m.h.prime, undo: m.h.unprime}}
}

func (m precopyMode) drain(ctx context.Context) error {
	m.way.finish(ctx)
	return m.sharedMode.drain(ctx)
}

// seeMapped proves that the target maps the new memory, and shows it. What the source maps does not matter.
func (m precopyMode) seeMapped(context.Context) error {
	err := m.h.mapsAll(m.h.target)
	m.h.publish()
	return err
}

// prepareTarget makes sure that the target takes all of RAM from the stream: that is not what the command line of its guest may say.
func (m precopyMode) prepareTarget(ctx context.Context) error {
	_, err := m.h.only(ctx, m.h.target, map[string]bool{
		qmp.CapEvents: true, qmp.CapReturnPath: true, qmp.CapPostcopyRAM: false, qmp.CapReleaseRAM: false, qmp.CapLateBlockActivate: true,
	})
	return err
}
