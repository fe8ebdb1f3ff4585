package foreign

import (
	"fmt"
	"strings"

	"qlive/internal/qemu/cmdline"
	"qlive/internal/qmp"
	"qlive/vmstate"
)

// What estimates rest on; docs/adoption.md says where each comes from.
const (
	// streamRate is what QEMU sends over a unix socket at the least, in bytes a second.
	streamRate = 250 << 20
	// slack is what a second QEMU needs beside the guest's RAM, bytes; postcopy needs a tenth of that besides.
	slack = 64 << 20
	// pauseMS and sharedMS are what a handoff takes that copies nothing: the guest's pause and all of it.
	pauseMS  = 10
	sharedMS = 1500
	// copyPauseMS is the pause of a handoff that copies, of a guest that does not change its memory as fast as it is copied.
	copyPauseMS = 30
)

// Assess says what was found, and what it means for handing the guest over. Assent: the caller accepts what mode postcopy risks.
func Assess(f *Found, assent bool) *vmstate.Adoption {
	p := f.Process
	a := &vmstate.Adoption{
		PID: p.ID.PID, StartTime: p.ID.Start, Binary: p.Binary, Version: f.Version.String(), Machine: f.Facts.Machine.Name,
		RunState: string(f.RunState), Monitor: f.Monitor, Dir: p.Dir, UID: p.UID, Cgroup: p.Cgroup, CPUs: Ranges(p.Affinity),
		Namespaces: orNone(p.Apart), EnvNames: []string{}, Regions: []vmstate.AdoptedRegion{}, Interrupted: interrupted(f),
		Obstacles: orNone(obstacles(f)), Descriptors: orNone(f.Descriptors),
	}
	for _, v := range p.Env {
		name, _, _ := strings.Cut(v, "=")
		a.EnvNames = append(a.EnvNames, name)
	}
	for _, b := range f.Blocks {
		a.Regions = append(a.Regions, regionOf(f, b))
	}
	choose(a, assent)
	estimate(f, a)
	return a
}

// orNone makes JSON say [] rather than null.
func orNone[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}

// regionOf says what a block's memory leads to. A mode that QEMU would take and that loses or doubles RAM is never among it, but by the name of precopy: what one
// QEMU alone can map is moved into new memory, what qlive can map stays where it is, by a command line that both QEMUs agree on, and what can neither be
// moved nor stay is copied.
func regionOf(f *Found, b Block) vmstate.AdoptedRegion {
	r := vmstate.AdoptedRegion{
		Name: b.Block, Object: b.ID, SizeBytes: b.SizeBytes, PageBytes: b.PageSize, Backing: b.Memory.Backing, Path: b.Memory.Path, Inode: b.Memory.Inode,
		Mode: vmstate.ModePrecopy,
	}
	m := b.Memory
	switch {
	case b.Err != nil:
		r.Mode, r.Why = vmstate.ModeNone, b.Err.Error()
	case !m.Whole:
		r.Mode, r.Why = vmstate.ModeNone, "it is not one piece of memory that QEMU can write"
	case m.Backing == vmstate.PrivateFile:
		r.Why = "it is a private copy of the file " + m.Path + ", of which QEMU would free nothing behind, or punch holes into the file, as it moved the guest out: it can be copied"
	case !m.Backing.Shared() && b.PageSize > smallPage:
		r.Why = "its huge pages are private to this QEMU, which cannot be moved into others: they can be copied"
	case !m.Backing.Shared():
		r.Mode = vmstate.ModePostcopy
		r.Why = "its pages are private to this QEMU: they are moved, once, into memory that qlive holds"
	case b.Kind == "":
		r.Why = "QEMU has no object for it, by which both QEMUs could agree on where it begins: it can be copied"
	case m.Offset != 0 || m.FileBytes != b.SizeBytes:
		r.Why = fmt.Sprintf("it begins at byte %d of a file of %d bytes, and would have to be the whole file to stay where it is: it can be copied", m.Offset, m.FileBytes)
	default:
		r.Mode, r.Ignored = vmstate.ModeShared, ignored(f.Version, b)
		r.Why = "another QEMU can map the very same memory, which stays where it is"
		if !r.Ignored {
			r.Why += "; this QEMU's own migration would copy it, so only the way device_state is taken"
		}
	}
	return r
}

// smallPage is the size of an ordinary page on x86, bytes.
const smallPage = 4096

// ignored tells whether a QEMU of this version leaves the block out of a migration (x-ignore-shared): up to 8.0 every shared one, since
// then only those of memory-backend-file (migrate_ram_is_ignored in migration/ram.c).
func ignored(v cmdline.Version, b Block) bool {
	return b.Kind == "memory-backend-file" || !v.AtLeast(8, 1)
}

// choose finds the mode of the first handoff: all regions stay, or all move, or all are copied. Postcopy empties the target's memory first, and QEMU does not
// leave any RAM out of it: a region that both QEMUs map would lose what it holds.
func choose(a *vmstate.Adoption, assent bool) {
	a.Mode, a.Why = mode(a.Regions)
	if len(a.Obstacles) > 0 {
		a.Why += "; but something stands in the way"
	}
	a.NeedsAssent = a.Mode == vmstate.ModePrecopy || a.Mode == vmstate.ModePostcopy && !assent
}

func mode(regions []vmstate.AdoptedRegion) (vmstate.Mode, string) {
	by := map[vmstate.Mode]vmstate.AdoptedRegion{}
	for _, r := range regions {
		by[r.Mode] = r
	}
	none, cannot := by[vmstate.ModeNone]
	copied, copies := by[vmstate.ModePrecopy]
	moved, moves := by[vmstate.ModePostcopy]
	stays, stay := by[vmstate.ModeShared]
	const all = "; all of the guest's RAM is copied, once, into memory that qlive holds, while the host has it twice"
	switch {
	case cannot:
		return vmstate.ModeNone, fmt.Sprintf("RAM block %s cannot be handed over: %s", none.Name, none.Why)
	case copies:
		return vmstate.ModePrecopy, fmt.Sprintf("RAM block %s can neither stay where it is nor be moved: %s%s", copied.Name, copied.Why, all)
	case moves && stay:
		return vmstate.ModePrecopy, fmt.Sprintf("RAM block %s is private to its QEMU and %s is not, and QEMU moves all of a guest's RAM or leaves all of it%s", moved.Name, stays.Name, all)
	case moves:
		return vmstate.ModePostcopy, "the guest's RAM is private to its QEMU: it is moved, once, into memory that qlive holds, and every later handoff copies nothing"
	case stay:
		return vmstate.ModeShared, "all of the guest's RAM can be mapped by another QEMU; nothing of it is copied"
	}
	return vmstate.ModeNone, "no RAM of a guest was found"
}

// estimate says what the first handoff costs.
func estimate(f *Found, a *vmstate.Adoption) {
	var size uint64
	for _, r := range a.Regions {
		size += r.SizeBytes
	}
	anon := f.Process.Memory.RSSAnon
	switch a.Mode {
	case vmstate.ModeShared:
		a.PeakBytes, a.PauseMS, a.DurationMS = max(anon, slack), pauseMS, sharedMS
	case vmstate.ModePostcopy:
		untouched := size - min(anon, size) // of it the target has every page in the end
		a.PeakBytes, a.PauseMS, a.DurationMS = untouched+size/10+slack, pauseMS, sharedMS+int64(size*1000/streamRate)
	case vmstate.ModePrecopy:
		a.PeakBytes, a.PauseMS, a.DurationMS = size+slack, copyPauseMS, sharedMS+int64(size*1000/streamRate)
	}
}

// obstacles are what stands in the way of any handoff.
func obstacles(f *Found) []vmstate.Obstacle {
	var list []vmstate.Obstacle
	for _, o := range f.Refusals {
		o.Lasting = true
		list = append(list, o)
	}
	for _, why := range f.Blocked {
		list = append(list, vmstate.Obstacle{What: "QEMU itself says that this guest must not be migrated: " + why, Remedy: "remove the device or the option that QEMU names"})
	}
	if len(f.Plugged) > 0 {
		list = append(list, vmstate.Obstacle{
			What:   "devices have been plugged in that are not on the command line: " + strings.Join(f.Plugged, ", "),
			Remedy: "unplug them (device_del), or restart the guest with them on its command line",
		})
	}
	for _, kind := range f.Process.Apart {
		list = append(list, vmstate.Obstacle{
			What:   fmt.Sprintf("the QEMU lives in a %s namespace of its own, where paths, sockets and numbers mean something else", kind),
			Remedy: "run a qlive daemon inside that container, or the guest outside of it", Lasting: true,
		})
	}
	switch f.RunState {
	case qmp.RunRunning, qmp.RunPaused, qmp.RunPrelaunch, qmp.RunPostMigrate:
	default:
		list = append(list, vmstate.Obstacle{What: "the guest is " + string(f.RunState), Remedy: "bring it to run or pause it first"})
	}
	if f.Migrating {
		list = append(list, vmstate.Obstacle{What: "somebody else migrates the guest", Remedy: "let that end first, or cancel it"})
	}
	return list
}

func later(line *cmdline.Line) []cmdline.Later {
	if line == nil {
		return nil
	}
	return line.Later
}

// interrupted is what does not come along.
func interrupted(f *Found) []string {
	list := []string{fmt.Sprintf("the monitor at %s is qlive's until the guest has left this QEMU", f.Monitor)}
	for _, d := range f.Descriptors {
		switch d.Kind {
		case vmstate.HeldListening:
			if d.Name != f.Monitor {
				list = append(list, fmt.Sprintf("whoever is connected to %s must connect again", d.Name))
			}
		case vmstate.HeldTap:
			list = append(list, fmt.Sprintf("packets for the guest on the network interface %s: of those that come as the other QEMU starts a few may be lost, "+
				"and one for each queue waits until the guest runs there", d.Name))
		}
	}
	if f.Line != nil && f.Process.UID != 0 {
		for _, n := range f.Line.Names {
			list = append(list, fmt.Sprintf("%s is not there any more: the QEMU is not root's, and qlive makes no links for other users", n.Public))
		}
	}
	for _, l := range later(f.Line) {
		switch l.Kind {
		case cmdline.LaterForward:
			list = append(list, fmt.Sprintf("what goes through the port forwarded by %s; it is opened again once this QEMU has ended", l.Rule))
		case cmdline.LaterVNC:
			list = append(list, fmt.Sprintf("the port %s of VNC is opened again once this QEMU has ended; a password that was set is to be set again", l.VNC.Port))
		}
	}
	if f.Line != nil && len(f.Line.Consoles) > 0 {
		list = append(list, "the guest's console on a terminal ends with this QEMU; from the first handoff on it is qlive's (qlive console)")
	}
	return append(list, "what runs inside or around this one process ends with it: its threads, its command line as the guest's starter knows it, its pid")
}
