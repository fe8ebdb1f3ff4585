package foreign

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"qlive/internal/hostram"
	"qlive/internal/qemu"
	"qlive/internal/qemu/cmdline"
	"qlive/internal/qmp"
	"qlive/vmstate"
)

// Found is what there is to know of a QEMU that qlive did not start.
type Found struct {
	Process  *Process
	Monitor  string
	Version  cmdline.Version
	Package  string
	RunState qmp.RunState
	Facts    cmdline.Facts
	// Line is how a QEMU that takes the guest over would be run, in a folder that Look was given; nil if there is no such line, and
	// Refusals says why.
	Line        *cmdline.Line
	Refusals    []vmstate.Obstacle
	Blocks      []Block
	Blocked     []string // QEMU's own reasons against a migration
	Plugged     []string // ids of devices that are not on the command line
	Migrating   bool     // somebody else migrates it
	Descriptors []vmstate.HeldDescriptor
	Holdings    []cmdline.Holding // that the next QEMU is given
}

// Block is a block of guest RAM.
type Block struct {
	cmdline.Region // as the target's line has it; Block is QEMU's name of it
	PageSize       uint64
	Memory         hostram.Memory
	// Kind is the type of the backend, such as memory-backend-file; empty for the RAM of a plain -m.
	Kind string
	Err  error // why nothing is known of its memory
}

// Look asks the QEMU of a process everything that a handoff needs to know. Dir is where the files of a QEMU that takes over would lie.
func Look(ctx context.Context, p *Process, monitor *qmp.Client, path, dir string) (*Found, error) {
	v := monitor.Version()
	f := &Found{Process: p, Monitor: path, Version: cmdline.Version{Major: v.Major, Minor: v.Minor, Micro: v.Micro}, Package: v.Package}
	status, err := monitor.QueryStatus(ctx)
	if err != nil {
		return nil, err
	}
	f.RunState = status.Status
	migration, err := monitor.QueryMigrate(ctx)
	if err != nil {
		return nil, err
	}
	f.Blocked = migration.BlockedReasons
	f.Migrating = migration.Status != qmp.MigrationNone && !migration.Status.Ended()
	if err := f.learn(ctx, monitor); err != nil {
		return nil, err
	}
	images, err := Images(ctx, monitor, p.Dir)
	if err != nil {
		return nil, err
	}
	if f.Descriptors, err = p.Descriptors(images); err != nil {
		return nil, err
	}
	sets, err := monitor.QueryFdsets(ctx)
	if err != nil {
		return nil, err
	}
	f.plan(dir, sets)
	f.Refusals = append(f.Refusals, obstaclesOf(CheckImages(f.Descriptors))...)
	if err := f.lookAtRAM(ctx, monitor); err != nil {
		return nil, err
	}
	return f, f.lookAtDevices(ctx, monitor)
}

// learn finds out what is fixed for the guest's life, from the QEMU that has it.
func (f *Found) learn(ctx context.Context, monitor *qmp.Client) error {
	var typ string
	if err := monitor.QOMGet(ctx, "/machine", "type", &typ); err != nil {
		return err
	}
	name := strings.TrimSuffix(typ, "-machine")
	machines, err := monitor.QueryMachines(ctx)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(machines, func(m qmp.Machine) bool { return m.Name == name })
	if i < 0 {
		return vmstate.Errorf(vmstate.QEMU, "cannot make sense of the machine of process %d: its type is %s, which its QEMU does not list", f.Process.ID.PID, name)
	}
	m := machines[i]
	f.Facts.Machine = cmdline.Machine{Name: m.Name, Alias: m.Alias, Default: m.IsDefault, Deprecated: m.Deprecated, RAMID: m.DefaultRAMID}
	guid, err := monitor.QueryVMGenerationID(ctx)
	if _, refused := errors.AsType[*qmp.Error](err); err != nil && !refused { // refused: there is no such device
		return err
	}
	f.Facts.GUID = guid
	return nil
}

// plan writes the line of a QEMU that takes over. What a memory path was when the guest started is long past: its RAM is where it is, and
// the target gets it by a descriptor.
func (f *Found) plan(dir string, sets map[int64][]int) {
	f.Facts.Paths, f.Facts.Listeners = map[string]cmdline.PathInfo{}, map[string]string{}
	for _, d := range f.Descriptors {
		if d.Kind == vmstate.HeldListening && filepath.IsAbs(d.Name) {
			f.Facts.Listeners[strconv.Itoa(d.FD)] = d.Name
		}
	}
	args, err := f.Process.whole()
	if err != nil {
		f.Refusals = obstaclesOf(err)
		return
	}
	for path, info := range qemu.LookAtPaths(args, f.Process.Dir) {
		// Firmware that is running has the files that this QEMU gave it: see addBootKernel in package cmdline.
		f.Facts.Paths[path] = cmdline.PathInfo{PageBytes: info.PageBytes, Memory: info.Memory, Linux: info.Linux && f.Version.AtLeast(10, 0)}
	}
	if f.Facts.Configs, err = qemu.ReadConfigs(f.Process.Args, f.Process.Dir); err != nil {
		f.Refusals = obstaclesOf(err)
		return
	}
	f.Line, err = cmdline.Rewrite(f.Process.Args, f.Facts, cmdline.Placement{Dir: dir, Incoming: true})
	f.Refusals = obstaclesOf(err)
	if err == nil {
		f.Holdings, err = cmdline.Holdings(args, f.Facts.Listeners)
	}
	if err == nil {
		_, err = Match(f.Holdings, f.Descriptors, sets)
		f.Refusals = obstaclesOf(err)
	}
}

// obstaclesOf takes apart what may be several refusals in one.
func obstaclesOf(err error) []vmstate.Obstacle {
	if err == nil {
		return nil
	}
	e, ok := errors.AsType[*vmstate.Error](err)
	if !ok {
		return []vmstate.Obstacle{{What: err.Error()}}
	}
	if many, ok := e.Err.(interface{ Unwrap() []error }); ok {
		var list []vmstate.Obstacle
		for _, one := range many.Unwrap() {
			list = append(list, obstaclesOf(one)...)
		}
		return list
	}
	return []vmstate.Obstacle{{What: e.Detail, Remedy: e.Remedy}}
}

// lookAtRAM finds the memory of each region of the line.
func (f *Found) lookAtRAM(ctx context.Context, monitor *qmp.Client) error {
	if f.Line == nil {
		return f.lookAtBackends(ctx, monitor)
	}
	for _, r := range f.Line.Regions {
		f.Blocks = append(f.Blocks, Block{Region: r})
	}
	return f.locate(ctx, monitor)
}

// lookAtBackends does it where there is no line, by QEMU's word alone, for the report's sake.
func (f *Found) lookAtBackends(ctx context.Context, monitor *qmp.Client) error {
	backends, err := monitor.QueryMemdev(ctx)
	if err != nil {
		return err
	}
	for _, b := range backends {
		id := b.ID
		if id == "" { // made by -m alone, before QEMU 5.0 gave it a name
			id = f.Facts.Machine.RAMID
		}
		f.Blocks = append(f.Blocks, Block{Region: cmdline.Region{ID: id, Block: id, SizeBytes: uint64(b.Size)}})
	}
	return f.locate(ctx, monitor)
}

func (f *Found) locate(ctx context.Context, monitor *qmp.Client) error {
	blocks, maps, err := hostram.Blocks(ctx, monitor, f.Process.ID.PID)
	if err != nil {
		return err
	}
	for i := range f.Blocks {
		b := &f.Blocks[i]
		k := slices.IndexFunc(blocks, func(q qmp.RAMBlock) bool { return q.Name == b.Block })
		if k < 0 {
			k = slices.IndexFunc(blocks, func(q qmp.RAMBlock) bool { return strings.HasSuffix(q.Name, "/"+b.Block) })
		}
		if k < 0 || blocks[k].Used != b.SizeBytes {
			b.Err = vmstate.Errorf(vmstate.Unsupported, "QEMU has no RAM block %s of %d bytes", b.Block, b.SizeBytes)
			continue
		}
		b.Block, b.PageSize = blocks[k].Name, blocks[k].PageSize
		b.Memory, b.Err = hostram.Look(f.Process.ID.PID, maps, blocks[k])
		if b.Kind, err = backendKind(ctx, monitor, b.ID); err != nil {
			return err
		}
	}
	return nil
}

// backendKind is the type of a memory backend, empty if there is no object of that id.
func backendKind(ctx context.Context, monitor *qmp.Client, id string) (kind string, err error) {
	err = monitor.QOMGet(ctx, "/objects/"+id, "type", &kind)
	if _, refused := errors.AsType[*qmp.Error](err); refused {
		return "", nil
	}
	return kind, err
}

// lookAtDevices finds devices that have been plugged in since the start: the command line does not have them.
func (f *Found) lookAtDevices(ctx context.Context, monitor *qmp.Client) error {
	list, err := monitor.QOMList(ctx, "/machine/peripheral")
	if err != nil {
		return err
	}
	args, err := f.Process.whole()
	if err != nil {
		return nil //nolint:nilerr // said among the refusals
	}
	known := cmdline.Devices(args)
	for _, p := range list {
		if _, child := p.Child(); child && !known[p.Name] {
			f.Plugged = append(f.Plugged, p.Name)
		}
	}
	return nil
}

// Images are the files of the guest's drives, by the paths that QEMU has for them; dir is its working directory.
func Images(ctx context.Context, monitor *qmp.Client, dir string) ([]string, error) {
	drives, err := monitor.QueryBlock(ctx)
	if err != nil {
		return nil, err
	}
	var images []string
	for _, d := range drives {
		if d.Inserted == nil {
			continue
		}
		for _, path := range []string{d.Inserted.File, d.Inserted.Image.Filename} {
			if !filepath.IsAbs(path) && path != "" {
				path = filepath.Join(dir, path)
			}
			images = append(images, path)
		}
	}
	return images, nil
}
