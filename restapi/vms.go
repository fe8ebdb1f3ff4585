package restapi

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"qlive/vmstate"
)

// VMPath is a path that names a VM.
type VMPath struct {
	VM string `path:"vm" doc:"name of the VM"`
}

// Resolve refuses what cannot be a name, before anything is looked up by it.
func (p *VMPath) Resolve(huma.Context) []error {
	if err := vmstate.CheckName(p.VM); err != nil {
		return faultAt("path.vm", err)
	}
	return nil
}

// PageQuery chooses a part of a collection.
type PageQuery struct {
	Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"the most items to give"`
	Cursor string `query:"cursor" maxLength:"200" doc:"next_cursor of the page before"`
}

// list is a collection, or a page of it.
type list[T any] struct {
	Items      []T    `json:"items"`
	NextCursor string `json:"next_cursor,omitempty" doc:"pass as cursor to get what follows; absent at the end"`
}

// body is an answer that is a body alone.
type body[T any] struct{ Body T }

// created is an answer that says where the thing is.
type created[T any] struct {
	Status   int
	Location string `header:"Location"`
	Body     T
}

func (a *api) vmRoutes() {
	add(a, huma.Operation{OperationID: "list-vms", Method: http.MethodGet, Path: "/vms", Summary: "List VMs", Tags: []string{"VMs"}}, a.listVMs)
	add(a, huma.Operation{OperationID: "start-vm", Method: http.MethodPost, Path: "/vms", Summary: "Start a VM, or adopt a QEMU that runs", Tags: []string{"VMs"},
		Description: "Returns once QEMU runs and answers. The command line can reach whatever the daemon can, so this is for administrators. " +
			"With adopt a QEMU that somebody else has started becomes the VM, and runs on meanwhile; with adopt.dry_run it is only looked at, and what was found is answered (200).",
		DefaultStatus: http.StatusCreated, Responses: map[string]*huma.Response{"200": {Description: "What was found; nothing was taken over", Content: jsonOf[vmstate.VM](a)}}}, a.startVM)
	add(a, huma.Operation{OperationID: "get-vm", Method: http.MethodGet, Path: "/vms/{vm}", Summary: "Show a VM", Tags: []string{"VMs"}}, a.getVM)
	add(a, huma.Operation{OperationID: "remove-vm", Method: http.MethodDelete, Path: "/vms/{vm}", Summary: "Power a VM down, kill it, or let it run, and forget it, its definition included", Tags: []string{"VMs"},
		Description: "The guest is asked to power off (202); the VM is there until it has. With force=true QEMU is killed (204). With forget=true qlive lets go of it, and the guest runs on (204).", DefaultStatus: http.StatusNoContent,
		Responses: map[string]*huma.Response{"202": {Description: "The guest has been asked"}}}, a.removeVM)
	add(a, huma.Operation{OperationID: "start-stopped-vm", Method: http.MethodPost, Path: "/vms/{vm}/start", Summary: "Start a VM that has stopped", Tags: []string{"VMs"},
		Description: "It is started from its definition, in the QEMU that it ran in last. Returns once QEMU runs and answers."}, a.startStoppedVM)
	a.vmVerb("pause", "Stop the guest's vCPUs", func(ctx context.Context, vm string) (vmstate.VM, error) { return a.svc.PauseVM(ctx, vm) })
	a.vmVerb("resume", "Let the guest's vCPUs run", func(ctx context.Context, vm string) (vmstate.VM, error) { return a.svc.ResumeVM(ctx, vm) })
	a.vmVerb("reset", "Reset the guest, as its reset button does", func(ctx context.Context, vm string) (vmstate.VM, error) { return a.svc.ResetVM(ctx, vm) })
	add(a, huma.Operation{OperationID: "powerdown-vm", Method: http.MethodPost, Path: "/vms/{vm}/powerdown", Summary: "Ask the guest to power off, as its power button does, or pull its plug", Tags: []string{"VMs"},
		Description: "The VM stays, and can be started again. Without force it is up to the guest (202). With force=true QEMU is killed, and the VM has stopped (200).", DefaultStatus: http.StatusAccepted,
		Responses: map[string]*huma.Response{"200": {Description: "QEMU has been killed"}}}, a.powerdown)
	add(a, huma.Operation{OperationID: "undecided-vm", Method: http.MethodGet, Path: "/vms/{vm}/resolve", Summary: "Show what is known of a VM whose handoff has failed, and what can be decided", Tags: []string{"VMs"}}, a.undecided)
	add(a, huma.Operation{OperationID: "resolve-vm", Method: http.MethodPost, Path: "/vms/{vm}/resolve", Summary: "Decide who goes on with a VM whose handoff has failed", Tags: []string{"VMs"},
		Description: "The other QEMU is killed and seen dead first. What cannot be done is refused before anything is touched."}, a.resolve)
	add(a, huma.Operation{OperationID: "list-regions", Method: http.MethodGet, Path: "/vms/{vm}/regions", Summary: "List a VM's RAM regions", Tags: []string{"VMs"}}, a.listRegions)
	add(a, huma.Operation{OperationID: "get-region", Method: http.MethodGet, Path: "/vms/{vm}/regions/{region}", Summary: "Show a RAM region", Tags: []string{"VMs"}}, a.getRegion)
}

// vmVerb registers POST /vms/{vm}/verb.
func (a *api) vmVerb(verb, summary string, act func(context.Context, string) (vmstate.VM, error)) {
	op := huma.Operation{OperationID: verb + "-vm", Method: http.MethodPost, Path: "/vms/{vm}/" + verb, Summary: summary, Tags: []string{"VMs"}}
	add(a, op, func(ctx context.Context, in *VMPath) (*body[vmstate.VM], error) {
		vm, err := act(ctx, in.VM)
		if err != nil {
			return nil, err
		}
		return &body[vmstate.VM]{a.asOfNow(vm)}, nil
	})
}

func (a *api) undecided(ctx context.Context, in *VMPath) (*body[vmstate.Decision], error) {
	d, err := a.svc.Undecided(ctx, in.VM)
	if err != nil {
		return nil, err
	}
	if d.Choices == nil {
		d.Choices = []vmstate.Choice{}
	}
	return &body[vmstate.Decision]{d}, nil
}

type resolveInput struct {
	VMPath
	Body struct {
		To string `json:"to" enum:"source,target,discard" doc:"who goes on with the guest; discard ends both"`
	}
}

func (a *api) resolve(ctx context.Context, in *resolveInput) (*body[vmstate.VM], error) {
	vm, err := a.svc.ResolveVM(ctx, in.VM, in.Body.To)
	if err != nil {
		return nil, err
	}
	return &body[vmstate.VM]{a.asOfNow(vm)}, nil
}

type listVMsInput struct {
	PageQuery
	Status vmstate.Status `query:"status" enum:"running,paused,migrating,stopped,failed,starting" doc:"only VMs of this status"`
}

func (a *api) listVMs(_ context.Context, in *listVMsInput) (*body[list[vmstate.VM]], error) {
	out := &body[list[vmstate.VM]]{list[vmstate.VM]{Items: []vmstate.VM{}}}
	a.svc.Look("")
	for _, vm := range a.svc.Snapshot().VMs { // by name, so the last name is the cursor
		if vm.Name <= in.Cursor || in.Status != "" && vm.Status != in.Status {
			continue
		}
		if n := len(out.Body.Items); n == in.Limit {
			out.Body.NextCursor = out.Body.Items[n-1].Name
			break
		}
		out.Body.Items = append(out.Body.Items, a.asOfNow(vm))
	}
	return out, nil
}

func (a *api) startVM(ctx context.Context, in *struct{ Body vmstate.VMSpec }) (*created[vmstate.VM], error) {
	spec := in.Body
	if err := vmstate.CheckName(spec.Name); err != nil {
		return nil, err
	}
	for _, path := range []string{spec.Binary, spec.Dir, spec.Memory.Path} {
		if path != "" && !strings.HasPrefix(path, "/") {
			return nil, vmstate.Errorf(vmstate.Invalid, "cannot start VM %s: %q is not an absolute path", spec.Name, path).
				With("the daemon has another working directory than you: write the path from /")
		}
	}
	if spec.Adopt != nil {
		return a.adoptVM(ctx, spec)
	}
	if spec.Binary == "" {
		return nil, vmstate.Errorf(vmstate.Invalid, "cannot start VM %s: binary is empty", spec.Name).With("name a QEMU, such as /usr/bin/qemu-system-x86_64")
	}
	for _, text := range slices.Concat(spec.Args, []string{spec.Binary, spec.Dir, spec.Memory.Path}) {
		if strings.ContainsRune(text, 0) {
			return nil, vmstate.Errorf(vmstate.Invalid, "cannot start VM %s: %q holds a zero byte", spec.Name, text)
		}
	}
	vm, err := a.svc.StartVM(ctx, spec)
	if err != nil {
		return nil, err
	}
	return &created[vmstate.VM]{Status: http.StatusCreated, Location: location(ctx, "vms", vm.Name), Body: a.asOfNow(vm)}, nil
}

// adoptVM takes over a QEMU that runs, or looks at it.
func (a *api) adoptVM(ctx context.Context, spec vmstate.VMSpec) (*created[vmstate.VM], error) {
	refuse := func(why, remedy string) (*created[vmstate.VM], error) {
		return nil, vmstate.Errorf(vmstate.Invalid, "cannot adopt a QEMU as VM %s: %s", spec.Name, why).With(remedy)
	}
	ask := *spec.Adopt
	switch {
	case spec.Binary != "" || len(spec.Args) > 0 || spec.Dir != "":
		return refuse("binary, args and dir are its own", "leave them out beside adopt")
	case ask.PID == 0 && ask.QMP == "":
		return refuse("neither its process nor its monitor is named", "name one or both of pid and qmp")
	case ask.QMP != "" && (!strings.HasPrefix(ask.QMP, "/") || strings.ContainsRune(ask.QMP, 0)):
		return refuse("qmp is no absolute path", "the daemon has another working directory than you: write the path from /")
	}
	vm, err := a.svc.StartVM(ctx, spec)
	if err != nil {
		return nil, err
	}
	if ask.DryRun {
		return &created[vmstate.VM]{Status: http.StatusOK, Body: a.asOfNow(vm)}, nil
	}
	return &created[vmstate.VM]{Status: http.StatusCreated, Location: location(ctx, "vms", vm.Name), Body: a.asOfNow(vm)}, nil
}

func (a *api) startStoppedVM(ctx context.Context, in *VMPath) (*body[vmstate.VM], error) {
	vm, err := a.svc.StartStoppedVM(ctx, in.VM)
	if err != nil {
		return nil, err
	}
	return &body[vmstate.VM]{a.asOfNow(vm)}, nil
}

func (a *api) getVM(_ context.Context, in *VMPath) (*body[vmstate.VM], error) {
	a.svc.Look(in.VM)
	vm, err := a.vm(in.VM)
	if err != nil {
		return nil, err
	}
	return &body[vmstate.VM]{vm}, nil
}

type powerdownInput struct {
	VMPath
	Force bool `query:"force" doc:"kill QEMU instead of asking the guest"`
}

type powerdownOutput struct {
	Status int
	Body   vmstate.VM
}

func (a *api) powerdown(ctx context.Context, in *powerdownInput) (*powerdownOutput, error) {
	act, status := a.svc.PowerdownVM, http.StatusAccepted
	if in.Force {
		act, status = a.svc.KillVM, http.StatusOK
	}
	vm, err := act(ctx, in.VM)
	if err != nil {
		return nil, err
	}
	return &powerdownOutput{status, a.asOfNow(vm)}, nil
}

type removeVMInput struct {
	VMPath
	Force  bool `query:"force" doc:"kill QEMU instead of asking the guest"`
	Forget bool `query:"forget" doc:"let go of QEMU and its guest, which run on"`
}

func (a *api) removeVM(ctx context.Context, in *removeVMInput) (*struct{ Status int }, error) {
	how, status := RemovePowerdown, http.StatusAccepted
	switch {
	case in.Force && in.Forget:
		return nil, vmstate.Errorf(vmstate.Invalid, "cannot both kill %s and let it run", in.VM).With("ask for one of force and forget")
	case in.Force:
		how, status = RemoveKill, http.StatusNoContent
	case in.Forget:
		how, status = RemoveForget, http.StatusNoContent
	}
	if err := a.svc.RemoveVM(ctx, in.VM, how); err != nil {
		return nil, err
	}
	return &struct{ Status int }{status}, nil
}

func (a *api) listRegions(_ context.Context, in *VMPath) (*body[list[vmstate.Region]], error) {
	vm, err := a.vm(in.VM)
	if err != nil {
		return nil, err
	}
	return &body[list[vmstate.Region]]{list[vmstate.Region]{Items: vm.Regions}}, nil
}

type regionPath struct {
	VMPath
	Region string `path:"region" doc:"name of the region"`
}

func (a *api) getRegion(_ context.Context, in *regionPath) (*body[vmstate.Region], error) {
	vm, err := a.vm(in.VM)
	if err != nil {
		return nil, err
	}
	for _, region := range vm.Regions {
		if region.Name == in.Region {
			return &body[vmstate.Region]{region}, nil
		}
	}
	e := vmstate.Errorf(vmstate.NotFound, "cannot find region %q of VM %s", in.Region, in.VM)
	e.VM = in.VM
	return nil, e
}

// vm finds a VM.
func (a *api) vm(name string) (vmstate.VM, error) {
	if vm, ok := a.svc.Snapshot().VM(name); ok {
		return a.asOfNow(vm), nil
	}
	e := vmstate.Errorf(vmstate.NotFound, "cannot find VM %q", name).With("GET /vms lists the VMs")
	e.VM = name
	return vmstate.VM{}, e
}

// asOfNow is vm at this moment: its uptime goes on while nothing is published.
func (a *api) asOfNow(vm vmstate.VM) vmstate.VM {
	if vm.PID != 0 && !vm.StartedAt.IsZero() {
		vm.UptimeS = max(0, int64(a.opts.Now().Sub(vm.StartedAt)/time.Second))
	}
	return wholeVM(vm)
}

// wholeVM is vm with empty lists where it has none: null is for what is not known.
func wholeVM(vm vmstate.VM) vmstate.VM {
	if vm.Regions == nil {
		vm.Regions = []vmstate.Region{}
	}
	return vm
}

// wholeMigration is the same for a migration.
func wholeMigration(m vmstate.Migration) vmstate.Migration {
	if m.Regions == nil {
		m.Regions = []vmstate.Region{}
	}
	if m.Phases == nil {
		m.Phases = []vmstate.PhaseTime{}
	}
	if m.Warnings == nil {
		m.Warnings = []string{}
	}
	if m.Log == nil {
		m.Log = []vmstate.LogLine{}
	}
	return m
}
