package bench

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	"qlive/integration/env"
	"qlive/vmstate"
)

// Groups of rows that can be asked for.
const (
	RAM      = "ram"      // sizes of touched memory
	Pages    = "pages"    // of 4 KiB and 2 MiB
	VCPUs    = "vcpus"    // 1 and 2
	Devices  = "devices"  // 0 and 4 virtio devices
	Versions = "versions" // from one QEMU to another
	Ways     = "ways"     // to switch; at each size, if sizes are measured too
	Peers    = "peers"    // what QEMU offers by itself
	Readers  = "readers"  // while many read the tree
)

// Groups are all of them, in the order in which they are measured.
func Groups() []string { return []string{RAM, Ways, Pages, VCPUs, Devices, Versions, Peers, Readers} }

// Contender is a way to hand a guest over.
type Contender string

// The contenders beside qlive/WAY and floor/WAY.
const (
	DeviceStateBare Contender = "floor/device_state_bare" // without what is not shared: no guest could reboot after it
	Precopy         Contender = "qemu/precopy"            // a plain copy of RAM, two sets of it; QEMU's own downtime-limit, 300 ms
	PrecopyTuned    Contender = "qemu/precopy_5ms"        // the same, told to stop the guest only once 5 ms will do
	CPR             Contender = "qemu/cpr-transfer"       // QEMU hands its descriptors over itself
)

// The contenders of the group Readers: qlive by its default way while as many readers, as often, read an ordinary file or the tree's.
const (
	BesideTmpfs Contender = "qlive/device_state, an ordinary file is read"
	BesideTree  Contender = "qlive/device_state, status is read"
)

// Floor is the bare client that does the least that works.
func Floor(w vmstate.Way) Contender { return Contender("floor/" + w) }

// Qlive is the product, through its daemon and its REST interface.
func Qlive(w vmstate.Way) Contender { return Contender("qlive/" + w) }

// way is the last part of the name of a qlive or floor contender.
func (c Contender) way() vmstate.Way {
	_, w, _ := strings.Cut(string(c), "/")
	w, _, _ = strings.Cut(w, ",")
	return vmstate.Way(w)
}

// back is the contender that takes the guest on its way back. QEMU 10.0 cannot load what the cpr-transfer of 11.1 sends.
func (c Contender) back() Contender {
	if c == CPR {
		return Floor(vmstate.WayDeviceState)
	}
	return c
}

func (c Contender) isQlive() bool { return strings.HasPrefix(string(c), "qlive/") }

// unit is what is measured side by side: the first, mostly a floor, is what the others are compared with.
type unit []Contender

// scene is a guest, or two of the same shape, handed over between two QEMUs by several contenders in turn.
type scene struct {
	group    string
	shape    Shape
	from, to string // versions of QEMU
	units    []unit
}

func (s scene) String() string {
	pages := "4 KiB"
	if s.shape.HugePages {
		pages = "2 MiB"
	}
	return fmt.Sprintf("%s: %d MiB touched, pages of %s, %d vCPU, %d devices, QEMU %s to %s",
		s.group, s.shape.TouchedMiB, pages, s.shape.VCPUs, s.shape.Devices, s.from, s.to)
}

// has tells whether one of its contenders is wanted.
func (s scene) has(wanted func(Contender) bool) bool {
	return slices.ContainsFunc(s.units, func(u unit) bool { return slices.ContainsFunc(u, wanted) })
}

// base is the guest that all rows differ from in one point.
func base() Shape { return Shape{Machine: "pc-q35-7.2", TouchedMiB: 256, VCPUs: 1} }

// pair is qlive beside the floor of the same way.
func pair(w vmstate.Way) unit { return unit{Floor(w), Qlive(w)} }

// plan lists the scenes of the groups.
func plan(groups []string, quick bool) ([]scene, error) {
	for _, g := range groups {
		if !slices.Contains(Groups(), g) {
			return nil, vmstate.Errorf(vmstate.Invalid, "cannot measure %q: there is no such group of rows", g).
				With("choose from " + strings.Join(Groups(), ", "))
		}
	}
	want := func(g string) bool { return len(groups) == 0 || slices.Contains(groups, g) }
	sizes := []int{256, 1024, 4096, 8192}
	if quick {
		sizes = sizes[:2]
	}
	if !want(RAM) {
		sizes = sizes[:1]
	}
	var scenes []scene
	if want(RAM) || want(Ways) {
		for _, size := range sizes {
			scenes = append(scenes, variant(RAM, func(s *scene) {
				s.shape.TouchedMiB = size
				if want(Ways) {
					s.units = []unit{append(pair(vmstate.WayDeviceState), DeviceStateBare), pair(vmstate.WayStopFirst), pair(vmstate.WayLive)}
				}
			}))
		}
	}
	if want(Pages) {
		for _, huge := range []bool{false, true} {
			scenes = append(scenes, variant(Pages, func(s *scene) { s.shape.TouchedMiB, s.shape.HugePages = 1024, huge }))
		}
	}
	if want(VCPUs) {
		for n := 1; n <= 2; n++ {
			scenes = append(scenes, variant(VCPUs, func(s *scene) { s.shape.VCPUs = n }))
		}
	}
	if want(Devices) {
		for _, n := range []int{0, 4} {
			scenes = append(scenes, variant(Devices, func(s *scene) { s.shape.Devices = n }))
		}
	}
	if want(Versions) {
		for _, v := range [][2]string{{env.Installed, env.Backport}, {env.Installed, env.Newest}, {env.Backport, env.Newest}} {
			scenes = append(scenes, variant(Versions, func(s *scene) { s.from, s.to = v[0], v[1] }))
		}
	}
	if want(Peers) {
		scenes = append(scenes, peers(sizes)...)
	}
	if want(Readers) {
		scenes = append(scenes, variant(Readers, func(s *scene) {
			s.units = []unit{{BesideTmpfs, BesideTree, Qlive(vmstate.WayDeviceState)}}
		}))
	}
	return scenes, nil
}

// variant is the usual scene, changed in one point: the default way, from QEMU 10.0 into another of the same.
func variant(group string, change func(*scene)) scene {
	s := scene{group: group, shape: base(), from: env.Backport, to: env.Backport, units: []unit{pair(vmstate.WayDeviceState)}}
	change(&s)
	return s
}

// peers are the scenes of what QEMU offers by itself. A copy of much memory takes long, so it is measured at two sizes at most.
func peers(sizes []int) []scene {
	beside := func(more ...Contender) []unit { return []unit{append(pair(vmstate.WayDeviceState), more...)} }
	scenes := []scene{variant(Peers, func(s *scene) { s.units = beside(Precopy, PrecopyTuned) })}
	if len(sizes) > 1 {
		scenes = append(scenes, variant(Peers, func(s *scene) { s.shape.TouchedMiB, s.units = sizes[1], beside(Precopy) }))
	}
	return append(scenes, variant(Peers, func(s *scene) {
		s.shape.Machine, s.to, s.units = "pc-q35-10.0", env.Newest, beside(CPR)
	}))
}

// order is one round: all contenders once, those of a unit next to each other, both by chance.
func order(rng *rand.Rand, units []unit) []Contender {
	var round []Contender
	for _, u := range rng.Perm(len(units)) {
		for _, c := range rng.Perm(len(units[u])) {
			round = append(round, units[u][c])
		}
	}
	return round
}

// trip is where a contender takes the guest in a round. It ends where it began, so that the next finds the guest there.
func (s scene) trip() []string {
	if s.from == s.to {
		return []string{s.to}
	}
	return []string{s.to, s.from}
}
