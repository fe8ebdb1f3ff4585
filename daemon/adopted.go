package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"qlive/flip"
	"qlive/flip/memory"
	"qlive/internal/cgroup"
	"qlive/internal/foreign"
	"qlive/internal/qemu/cmdline"
	"qlive/internal/qmp"
	"qlive/internal/scarcity"
	"qlive/vmstate"
)

// unfitAdoption is why an adopted guest can never be handed over as it is; nil if it can.
func unfitAdoption(vm string, a *vmstate.Adoption) error {
	if a == nil {
		return nil
	}
	var what, remedies []string
	if a.Mode == vmstate.ModeNone {
		what = append(what, a.Why)
	}
	for _, o := range a.Obstacles {
		if o.Lasting {
			what, remedies = append(what, o.What), append(remedies, o.Remedy)
		}
	}
	if len(what) == 0 {
		return nil
	}
	e := vmstate.Errorf(vmstate.Unsupported, "cannot hand %s over: %s", vm, strings.Join(what, "; ")).
		With(strings.Join(append(remedies, "or start the guest anew by qlive: `qlive run`"), "; "))
	e.VM = vm
	return e
}

// ramOf is the size of an adopted guest's RAM.
func ramOf(a *vmstate.Adoption) (bytes uint64) {
	for _, r := range a.Regions {
		bytes += r.SizeBytes
	}
	return bytes
}

// privateRegions are the regions of a guest whose RAM qlive does not hold.
func privateRegions(a *vmstate.Adoption) []vmstate.Region {
	var list []vmstate.Region
	for _, r := range a.Regions {
		list = append(list, vmstate.Region{Name: r.Name, SizeBytes: r.SizeBytes, PageBytes: r.PageBytes, Backing: r.Backing, Inode: r.Inode}.Reset(a.PID))
	}
	return list
}

// privateTo are the regions that only g has.
func (m *machine) privateTo(g *generation) []vmstate.Region {
	if !g.foreign || m.adoption == nil || m.adoption.Mode == vmstate.ModeShared {
		return nil
	}
	return privateRegions(m.adoption)
}

// placeBeside decides as whom and where later QEMUs of an adopted guest run: as the same user, so that they can open the same images, and in a
// cgroup of qlive's. A guest that was let go of is in one already.
func (d *Daemon) placeBeside(spec vmstate.VMSpec, p *foreign.Process) (place, error) {
	owner, err := p.Owner()
	if err != nil {
		return place{}, err
	}
	beside := place{user: owner}
	if mount, err := cgroup.Mount(); err == nil && d.cgroups.parent != nil && filepath.Dir(filepath.Join(mount, p.Cgroup)) == filepath.Join(mount, d.cfg.cgroup()) {
		if beside.group, err = cgroup.Find(filepath.Join(mount, p.Cgroup)); err != nil {
			return place{}, err
		}
	}
	return d.placeFor(spec, beside)
}

// prepareMemoryLocked gives the memory that a handoff is about. Where it is moved or copied that is new memory of qlive's, which becomes the VM's when the
// handoff has completed.
func (m *machine) prepareMemoryLocked(mode vmstate.Mode, spec vmstate.MigrationSpec) (*memory.Set, error) {
	a := m.adoption
	switch {
	case mode == vmstate.ModePrecopy:
		return m.copyMemoryLocked(spec.Memory)
	case a == nil && mode == vmstate.ModePostcopy:
		return nil, m.cannotHandOver("its RAM is qlive's already, and stays where it is", "ask for mode auto or shared")
	case a != nil && spec.Memory != nil:
		return nil, m.cannotHandOver("its RAM is not qlive's yet, and cannot be given another backing", "hand it over as it is first, and then with another memory; or ask for mode precopy, which copies it there")
	case a == nil:
		return m.memory, nil
	case mode != vmstate.ModePostcopy:
		return m.memory, m.checkWay(a, spec.Way)
	}
	m.demoteLocked() // of a handoff that was refused
	var wants []memory.Want
	for _, r := range a.Regions {
		wants = append(wants, memory.Want{Name: r.Name, SizeBytes: r.SizeBytes, PageBytes: r.PageBytes})
	}
	set, err := memory.Create(m.spec.Memory, m.spec.Name, wants)
	if err != nil {
		return nil, err
	}
	return m.nextLocked(nextRAM{set: set, spec: m.spec.Memory})
}

// checkWay refuses a way by which the source would copy RAM onto itself.
func (m *machine) checkWay(a *vmstate.Adoption, way vmstate.Way) error {
	if way == "" || way == vmstate.WayAuto || way == vmstate.WayDeviceState {
		return nil
	}
	for _, r := range a.Regions {
		if !r.Ignored {
			return m.cannotHandOver("QEMU "+a.Version+" would copy RAM block "+r.Name+" onto itself by the way "+string(way)+" while the guest runs",
				"ask for the way device_state, or for none")
		}
	}
	return nil
}

func (m *machine) cannotHandOver(why, remedy string) error {
	e := vmstate.Errorf(vmstate.Unsupported, "cannot hand %s over: %s", m.spec.Name, why).With(remedy)
	e.VM, e.Step = m.spec.Name, "plan"
	return e
}

// chooseAdopted is the mode of the first handoff of a guest that is in a QEMU that qlive did not start; none for any other guest, and for modes
// that have nothing to do with that. Postcopy needs a word of somebody who knows what it risks, precopy of somebody who has the memory for it.
func chooseAdopted(vm vmstate.VMSpec, a *vmstate.Adoption, asked vmstate.Mode) (flip.Choice, error) {
	refuse := func(why, remedy string) (flip.Choice, error) {
		return flip.Choice{}, vmstate.Errorf(vmstate.Unsupported, "cannot hand %s over: %s", vm.Name, why).With(remedy)
	}
	allowed := vm.Adopt != nil && vm.Adopt.AllowPostcopy
	byName := `ask for it by name, mode %s (` + "`qlive migrate " + vm.Name + " --mode %[1]s`); docs/%s says what that means"
	switch {
	case a == nil, asked != vmstate.ModeAuto && asked != vmstate.ModeShared && asked != vmstate.ModePostcopy && asked != vmstate.ModePrecopy:
		return flip.Choice{}, nil
	case asked == vmstate.ModePrecopy:
		return flip.Choice{Mode: vmstate.ModePrecopy, Why: "it was asked for by name"}, nil
	case a.Mode == vmstate.ModePrecopy:
		return refuse("its RAM can only be copied: "+a.Why, fmt.Sprintf(byName, vmstate.ModePrecopy, "precopy.md"))
	case a.Mode != vmstate.ModePostcopy && asked == vmstate.ModePostcopy:
		return refuse("its RAM is not private to its QEMU, which postcopy is for: "+a.Why, "ask for mode auto")
	case a.Mode != vmstate.ModePostcopy:
		return flip.Choice{Mode: vmstate.ModeShared, Why: a.Why}, nil
	case asked == vmstate.ModeShared:
		return refuse("its RAM is private to its QEMU, and no other can map it", "ask for mode postcopy, which moves it, or for mode precopy, which copies it")
	case asked == vmstate.ModeAuto && !allowed:
		return refuse("its RAM is private to its QEMU and has to be moved; from the switch until all of it has come neither QEMU alone has all of the guest, so mode auto does not choose that",
			fmt.Sprintf(byName, vmstate.ModePostcopy, "adoption.md")+"; or, if the host has memory for a second copy of its RAM, for mode precopy")
	case allowed:
		return flip.Choice{Mode: vmstate.ModePostcopy, Why: a.Why + "; it was allowed when the guest was adopted"}, nil
	}
	return flip.Choice{Mode: vmstate.ModePostcopy, Why: a.Why + "; it was asked for by name"}, nil
}

// settleAdoption makes of what was found of an adopted QEMU what it is now that g is known to have the guest.
func (m *machine) settleAdoption(g *generation) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !g.foreign {
		m.adoption, m.value.Adoption = nil, nil
	} else if m.unfit == nil {
		m.unfit = unfitAdoption(m.spec.Name, m.adoption)
	}
}

// keepData keeps a QEMU that is about to lose its guest from wiping the RAM as it ends, which discard-data tells it to
// (backends/hostmem-file.c). qlive's own never have that.
func (g *generation) keepData(ctx context.Context) error {
	if !g.foreign {
		return nil
	}
	for _, r := range g.line.Regions {
		path := "/objects/" + r.ID
		var discard bool
		if err := g.side.Monitor.QOMGet(ctx, path, "discard-data", &discard); err != nil || !discard {
			if _, refused := errors.AsType[*qmp.Error](err); err != nil && !refused { // refused: it has no such property
				return err
			}
			continue
		}
		err := g.side.Monitor.QOMSet(ctx, path, "discard-data", false)
		if err == nil {
			err = g.side.Monitor.QOMGet(ctx, path, "discard-data", &discard)
		}
		if err != nil || discard {
			return vmstate.Errorf(vmstate.QEMU, "cannot keep the source from wiping RAM block %s as it ends: discard-data is on, and stays so: %w", r.Block, err).
				With("start the guest anew without discard-data=on")
		}
	}
	return nil
}

// roomBeside makes sure that the host has room for what a handoff takes beside the source.
func (m *machine) roomBeside(r *run) error {
	switch {
	case r.mode == vmstate.ModePrecopy:
		m.mu.Lock()
		defer m.mu.Unlock()
		return m.roomForCopy(m.next.spec, m.next.set.SizeBytes())
	case r.source.foreign && m.adoption != nil:
		return scarcity.Memory("hand "+m.spec.Name+" over", m.adoption.PeakBytes)
	}
	return m.place.room(m.spec.Name, r.source.side.Process)
}

// moveNames points the public names at a generation. Those of an adopted QEMU that is not root's were named by a user of the host, for whom
// the daemon, which is root, does not write anywhere.
func (m *machine) moveNames(g *generation) {
	if m.spec.Adopt != nil && m.place.user != nil {
		return
	}
	if err := m.names.move(m.spec.Dir, g.line.Names); err != nil {
		m.log.Warn().Err(err).Msg("public names not moved")
	}
}

// inheritNames gives the names that a QEMU of somebody else's had made, and that has ended, to its successor. Its sockets are known to be
// dead by asking; its pidfile by what it says.
func (m *machine) inheritNames(from, to *generation) {
	for _, n := range to.line.Names {
		if m.place.user != nil {
			break // as for moveNames
		}
		path := publicPath(m.spec.Dir, n)
		if n.Kind == cmdline.NamePidfile && pidIn(path) == from.side.Process.PID() {
			if err := os.Remove(path); err != nil {
				m.log.Warn().Err(err).Msg("stale pidfile not removed")
			}
		}
	}
	m.moveNames(to)
}

// pidIn is the number in a pidfile; 0 if there is none.
func pidIn(path string) int {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	pid, _ := strconv.Atoi(strings.TrimSpace(string(text))) // 0 for what is no number
	return pid
}
