package daemon

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"

	"qlive/flip/memory"
	"qlive/internal/atomicfile"
	"qlive/internal/cgroup"
	"qlive/internal/proc"
	"qlive/internal/qemu"
	"qlive/internal/scarcity"
	"qlive/vmstate"
)

// place is as whom and in which cgroup the QEMUs of a VM run. It is decided once in a guest's life, whatever the configuration says later:
// both QEMUs of a handoff must be able to open the same images, and guest RAM stays charged to the cgroup that it was first touched in.
type place struct {
	user  *qemu.User
	group *cgroup.Group // nil for none
	why   string        // there is none
	score int           // oom_score_adj of the QEMU that has the guest
}

// waitingScore is the oom_score_adj of a QEMU that waits for the guest: if memory runs out, the kernel kills that one and the guest goes on.
const waitingScore = 1000

// placeFile is where the place of a VM is written down, in its folder.
const placeFile = "place.json"

type placeRecord struct {
	User   *qemu.User `json:"user,omitempty"`
	Cgroup string     `json:"cgroup,omitempty"` // its folder
}

// cgroups are where the daemon makes those of VMs.
type cgroups struct {
	parent *cgroup.Parent // nil for none
	why    error          // there are none, though they are wanted
}

// openCgroups finds the place for the cgroups of VMs. A host that has none is said to have none, and does without.
func (d *Daemon) openCgroups() {
	name := d.cfg.cgroup()
	if name == "" {
		return
	}
	mount, err := cgroup.Mount()
	if err == nil {
		d.cgroups.parent, err = cgroup.Open(mount, name)
	}
	if d.cgroups.why = err; err != nil {
		d.log.Warn().Err(err).Msg("guests run in the daemon's own cgroup, without limits")
	} else if missing := d.cgroups.parent.Missing(); len(missing) > 0 {
		d.log.Info().Strs("controllers", missing).Msg("not every limit can be kept")
	}
}

// close removes what nobody is in.
func (c cgroups) close() error {
	if c.parent == nil {
		return nil
	}
	return c.parent.Remove()
}

// make makes the cgroup of a VM, none if there are none and no limit needs it.
func (c cgroups) make(spec vmstate.VMSpec) (*cgroup.Group, error) {
	switch {
	case c.parent != nil:
		return c.parent.Make(spec.Name, spec.Limits)
	case spec.Limits.None():
		return nil, nil //nolint:nilnil // none
	case c.why != nil:
		return nil, c.why
	}
	return nil, vmstate.Errorf(vmstate.Unsupported, "cannot keep the limits of %s: the configuration says `cgroup: none`", spec.Name).
		With("leave the limits out, or write `cgroup: auto` into the configuration")
}

// place decides as whom and where the QEMUs of a new VM run, and writes it down in the VM's folder.
func (d *Daemon) place(spec vmstate.VMSpec) (place, error) {
	user, err := qemu.LookUpUser(d.cfg.userOf(spec.Name))
	if err != nil {
		return place{}, err
	}
	return d.placeFor(spec, place{user: user})
}

// placeFor is place for QEMUs that run as p's user and, if it has one, in p's cgroup.
func (d *Daemon) placeFor(spec vmstate.VMSpec, p place) (_ place, err error) {
	p.score = spec.Limits.OOMScoreAdj
	if err := spec.Limits.Check(); err != nil {
		return place{}, err
	}
	if p.group == nil {
		p.group, err = d.cgroups.make(spec)
	}
	if err != nil {
		return place{}, err
	}
	if d.cgroups.why != nil {
		p.why = d.cgroups.why.Error()
	}
	defer undo(&err, p.remove)
	dir := d.cfg.vmDir(spec.Name)
	text, err := json.Marshal(placeRecord{p.user, p.group.Path()})
	if err == nil {
		err = errors.Join(p.user.Enter(dir), atomicfile.Write(filepath.Join(dir, placeFile), append(text, '\n'), 0o600))
	}
	if err != nil {
		return place{}, vmstate.Errorf(vmstate.Host, "cannot write down where the QEMUs of %s run: %w", spec.Name, err)
	}
	return p, nil
}

// findPlace finds the place of a VM that an earlier daemon has left.
func (m *machine) findPlace() {
	m.place = place{score: m.spec.Limits.OOMScoreAdj}
	var r placeRecord
	text, err := os.ReadFile(filepath.Join(m.d.cfg.vmDir(m.spec.Name), placeFile))
	if err == nil {
		err = json.Unmarshal(text, &r)
	}
	if err == nil && r.Cgroup != "" {
		if m.place.group, err = cgroup.Find(r.Cgroup); vmstate.KindOf(err) == vmstate.NotFound {
			err = nil // it went with the last QEMU
		}
	}
	if m.place.user = r.User; err != nil {
		m.unfit = vmstate.Errorf(vmstate.Host, "cannot hand %s over: as whom and in which cgroup its QEMUs run is not known any more: %w", m.spec.Name, err)
		m.log.Error().Err(err).Msg("place of the VM's QEMUs not found again")
	}
}

// warnings say what an operator may expect of a place and it is not.
func (p place) warnings() []string {
	if p.why == "" {
		return nil
	}
	return []string{"its QEMUs have no cgroup of their own: " + p.why}
}

// folder is what a QEMU is born into; nil for the daemon's own cgroup.
func (p place) folder() *os.File {
	if p.group == nil {
		return nil
	}
	return p.group.Folder()
}

// leave lets go of the place of a VM that runs on.
func (p place) leave() error {
	if p.group == nil {
		return nil
	}
	return p.group.Close()
}

// remove removes what was made for a VM that has ended.
func (p place) remove() error {
	if p.group == nil {
		return nil
	}
	return p.group.Remove()
}

// roomForRAM is an error if a VM's limit of memory has no room for its RAM, as far as that counts: huge pages do not.
func roomForRAM(spec vmstate.VMSpec, ram []memory.Want) error {
	var bytes uint64
	for _, w := range ram {
		if w.PageBytes == 0 && (spec.Memory.Backing == "" || spec.Memory.Backing == vmstate.Memfd) {
			bytes += w.SizeBytes
		}
	}
	limit := spec.Limits.MemoryBytes
	if limit == 0 || limit > bytes {
		return nil
	}
	return vmstate.Errorf(vmstate.Invalid, "cannot keep %s within %s of memory: its RAM alone is %s", spec.Name, scarcity.MiB(limit), scarcity.MiB(bytes)).
		With("raise the limit: beside guest RAM it must have room for two QEMUs, which there are during a handoff")
}

// room is an error if a second QEMU will hardly find the memory that it needs beside the first: what that has for itself, guest RAM left out.
func (p place) room(vm string, source *qemu.Process) error {
	status, err := proc.ReadStatus(source.PID())
	if err != nil {
		return nil //nolint:nilerr // it has ended, as the next step will find
	}
	need := status.RSSAnon + status.PageTables
	return p.holds("hand "+vm+" over", "a second QEMU", need)
}

// holds is an error unless host and cgroup have so many bytes more for what somebody means to do, which takes them for something.
func (p place) holds(what, thing string, need uint64) error {
	if err := scarcity.Memory(what, need); err != nil {
		return err
	}
	if p.group == nil {
		return nil
	}
	use, err := p.group.Usage()
	if err != nil {
		return err
	}
	if free, limited := use.FreeMemory(); limited && free < need {
		return vmstate.Errorf(vmstate.Exhausted, "cannot %s: %s takes about %s of memory, and of the %s that the VM's QEMUs may have %s are free",
			what, thing, scarcity.MiB(need), scarcity.MiB(use.MemoryLimit), scarcity.MiB(free)).
			With("raise memory.max in " + p.group.Path() + "; the next start of the VM takes limits.memory_bytes")
	}
	return nil
}
