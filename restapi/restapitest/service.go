package restapitest

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"qlive/restapi"
	"qlive/vmstate"
)

// ringSize is how many events a Service can send again.
const ringSize = 64

// Service is a restapi.Service in memory. Make one with New.
type Service struct {
	refusal  atomic.Pointer[error]
	steps    atomic.Pointer[script]
	snapshot atomic.Pointer[vmstate.Snapshot]
	typed    atomic.Pointer[[]byte]
	replaced atomic.Pointer[string] // the VM whose binary is no longer the one that runs
	runs     sync.WaitGroup
	closed   chan struct{}

	mu      sync.Mutex // guards what follows, and the order of snapshots and events
	ring    []vmstate.Event
	streams map[chan vmstate.Event]bool
	nextID  int
}

// script is how migrations go by themselves.
type script struct {
	every  time.Duration
	phases []vmstate.Phase
}

var _ restapi.Service = (*Service)(nil)

// New makes a Service that has the given VMs.
func New(vms ...vmstate.VM) *Service {
	s := &Service{closed: make(chan struct{}), streams: map[chan vmstate.Event]bool{}}
	s.steps.Store(&script{})
	s.snapshot.Store(&vmstate.Snapshot{Seq: 1, At: time.Now(), Version: "test", Health: vmstate.Health{Ready: true}, VMs: vms})
	return s
}

// Close ends the migrations that run by themselves, and every stream of events.
func (s *Service) Close() {
	close(s.closed)
	s.runs.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	for stream := range s.streams {
		close(stream)
		delete(s.streams, stream)
	}
}

// Refuse makes every command return err, until it is called with nil.
func (s *Service) Refuse(err error) { s.refusal.Store(&err) }

// Run makes migrations go through the phases by themselves, one after each interval. Before it is called they stay
// planned until Step is.
func (s *Service) Run(every time.Duration, phases ...vmstate.Phase) {
	s.steps.Store(&script{every, phases})
}

func (s *Service) refused() error {
	if p := s.refusal.Load(); p != nil {
		return *p
	}
	return nil
}

// Replace replaces a VM's binary: Look sees it.
func (s *Service) Replace(vm string) { s.replaced.Store(&vm) }

// Look implements restapi.Service.
func (s *Service) Look(name string) {
	replaced := s.replaced.Load()
	vm, ok := s.snapshot.Load().VM(name)
	switch {
	case replaced == nil:
	case name == "":
		s.Look(*replaced)
	case ok && name == *replaced:
		vm.QEMU.Outdated = true
		s.SetVM(vm)
	}
}

// Snapshot implements restapi.Service.
func (s *Service) Snapshot() *vmstate.Snapshot { return s.snapshot.Load() }

// Change publishes a snapshot that edit has changed, and the event that tells of it.
func (s *Service) Change(event vmstate.Event, edit func(*vmstate.Snapshot)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := *s.snapshot.Load()
	next.VMs, next.Migrations = slices.Clone(next.VMs), slices.Clone(next.Migrations)
	edit(&next)
	next.Seq++
	next.At = time.Now()
	s.snapshot.Store(&next)
	event.Seq, event.At = next.Seq, next.At
	s.ring = append(s.ring, event)
	if len(s.ring) > ringSize {
		s.ring = slices.Clone(s.ring[1:])
	}
	for stream := range s.streams {
		if len(stream) < cap(stream)-1 {
			stream <- event
			continue
		}
		stream <- vmstate.Event{Seq: event.Seq, At: event.At, Type: vmstate.EventLost}
		close(stream)
		delete(s.streams, stream)
	}
}

// SetVM publishes a VM.
func (s *Service) SetVM(vm vmstate.VM) {
	s.Change(vmstate.Event{Type: vmstate.EventVM, VM: vm.Name, Data: vm}, func(n *vmstate.Snapshot) {
		n.VMs = slices.DeleteFunc(n.VMs, func(v vmstate.VM) bool { return v.Name == vm.Name })
		n.VMs = append(n.VMs, vm)
		slices.SortFunc(n.VMs, func(a, b vmstate.VM) int { return strings.Compare(a.Name, b.Name) })
	})
}

// SetMigration publishes a migration.
func (s *Service) SetMigration(m vmstate.Migration) {
	s.Change(vmstate.Event{Type: vmstate.EventMigration, VM: m.VM, Migration: m.ID, Data: m}, func(n *vmstate.Snapshot) {
		if i := slices.IndexFunc(n.Migrations, func(o vmstate.Migration) bool { return o.ID == m.ID }); i >= 0 {
			n.Migrations[i] = m
			return
		}
		n.Migrations = append([]vmstate.Migration{m}, n.Migrations...)
	})
}

// SetHealth publishes the daemon's health.
func (s *Service) SetHealth(h vmstate.Health) {
	s.Change(vmstate.Event{Type: vmstate.EventHealth, Data: h}, func(n *vmstate.Snapshot) { n.Health = h })
}

// Streams is how many listen to the events.
func (s *Service) Streams() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.streams)
}

// Typed is what was last typed on a console.
func (s *Service) Typed() string {
	if p := s.typed.Load(); p != nil {
		return string(*p)
	}
	return ""
}

// Subscribe implements restapi.Service.
func (s *Service) Subscribe(after uint64) vmstate.Subscription {
	s.mu.Lock()
	defer s.mu.Unlock()
	stream := make(chan vmstate.Event, 2*ringSize)
	snapshot := s.snapshot.Load()
	missed := slices.DeleteFunc(slices.Clone(s.ring), func(e vmstate.Event) bool { return e.Seq <= after })
	if after == 0 || after > snapshot.Seq || snapshot.Seq-after != uint64(len(missed)) {
		stream <- vmstate.Event{Seq: snapshot.Seq, At: snapshot.At, Type: vmstate.EventReset, Data: vmstate.State{
			Version: snapshot.Version, Health: snapshot.Health, VMs: snapshot.VMs, Migrations: snapshot.Migrations,
		}}
		missed = nil
	}
	for _, e := range missed {
		stream <- e
	}
	s.streams[stream] = true
	return vmstate.Subscription{Events: stream, Close: func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.streams[stream] {
			delete(s.streams, stream)
			close(stream)
		}
	}}
}

// StartVM implements restapi.Service.
func (s *Service) StartVM(_ context.Context, spec vmstate.VMSpec) (vmstate.VM, error) {
	if err := s.refused(); err != nil {
		return vmstate.VM{}, err
	}
	if _, ok := s.Snapshot().VM(spec.Name); ok {
		return vmstate.VM{}, vmstate.Errorf(vmstate.Conflict, "cannot start VM %s: there is one of that name", spec.Name)
	}
	if spec.Adopt != nil {
		return s.adopt(spec), nil
	}
	vm := VM(spec.Name)
	vm.QEMU.Binary = spec.Binary
	vm.Restart, vm.Autostart = spec.Restart.OrNever(), spec.Autostart
	vm.Argv = []vmstate.Arg{{Value: spec.Binary}}
	for _, arg := range spec.Args {
		vm.Argv = append(vm.Argv, vmstate.Arg{Value: arg})
	}
	s.SetVM(vm)
	return vm, nil
}

// adopt makes a VM of a QEMU with a block of private RAM.
func (s *Service) adopt(spec vmstate.VMSpec) vmstate.VM {
	vm := VM(spec.Name)
	vm.PID = spec.Adopt.PID
	vm.Adoption = &vmstate.Adoption{
		PID: vm.PID, Binary: vm.QEMU.Binary, Version: vm.QEMU.Version, Machine: vm.Machine, RunState: "running", Monitor: spec.Adopt.QMP, Dir: "/",
		CPUs: "0-1", Namespaces: []string{}, EnvNames: []string{"PATH"}, Mode: vmstate.ModePostcopy, Why: "the guest's RAM is private to its QEMU",
		NeedsAssent: !spec.Adopt.AllowPostcopy, PeakBytes: 1 << 28, PauseMS: 10, DurationMS: 2500,
		Regions: []vmstate.AdoptedRegion{{
			Name: "pc.ram", Object: "pc.ram", SizeBytes: 1 << 28, PageBytes: 4096, Backing: vmstate.Private, Mode: vmstate.ModePostcopy, Why: "its pages are private to this QEMU",
		}},
		Interrupted: []string{"the monitor is qlive's"}, Obstacles: []vmstate.Obstacle{{What: "cannot use -gdb tcp::1234", Remedy: "leave it out", Lasting: true}},
		Descriptors: []vmstate.HeldDescriptor{{FD: 12, Kind: vmstate.HeldTap, Name: "tap0"}},
	}
	if !spec.Adopt.DryRun {
		s.SetVM(vm)
	}
	return vm
}

// StartStoppedVM implements restapi.Service.
func (s *Service) StartStoppedVM(_ context.Context, name string) (vmstate.VM, error) {
	vm, err := s.find(name)
	if err == nil && vm.Status != vmstate.Stopped && vm.Status != vmstate.Broken {
		err = vmstate.Errorf(vmstate.Conflict, "cannot start VM %s: it is %s", name, vm.Status)
	}
	if err != nil {
		return vm, err
	}
	return s.become(name, vmstate.Running)
}

// RemoveVM implements restapi.Service.
func (s *Service) RemoveVM(_ context.Context, name string, how restapi.Removal) error {
	vm, err := s.find(name)
	if err != nil {
		return err
	}
	if how == restapi.RemovePowerdown {
		vm.Status, vm.PID = vmstate.Stopped, 0
		s.SetVM(vm)
	}
	s.Change(vmstate.Event{Type: vmstate.EventVM, VM: name, Deleted: true}, func(n *vmstate.Snapshot) {
		n.VMs = slices.DeleteFunc(n.VMs, func(v vmstate.VM) bool { return v.Name == name })
	})
	return nil
}

// PauseVM implements restapi.Service.
func (s *Service) PauseVM(_ context.Context, name string) (vmstate.VM, error) {
	return s.become(name, vmstate.Paused)
}

// ResumeVM implements restapi.Service.
func (s *Service) ResumeVM(_ context.Context, name string) (vmstate.VM, error) {
	return s.become(name, vmstate.Running)
}

// ResetVM implements restapi.Service.
func (s *Service) ResetVM(_ context.Context, name string) (vmstate.VM, error) {
	return s.become(name, vmstate.Running)
}

// PowerdownVM implements restapi.Service: the guest powers off at once.
func (s *Service) PowerdownVM(_ context.Context, name string) (vmstate.VM, error) {
	return s.become(name, vmstate.Stopped)
}

// KillVM implements restapi.Service.
func (s *Service) KillVM(_ context.Context, name string) (vmstate.VM, error) {
	return s.become(name, vmstate.Stopped)
}

// Undecided implements restapi.Service: of a VM that has failed everything can be decided.
func (s *Service) Undecided(_ context.Context, name string) (vmstate.Decision, error) {
	vm, err := s.find(name)
	if err != nil {
		return vmstate.Decision{}, err
	}
	if vm.Status != vmstate.Broken {
		return vmstate.Decision{}, vmstate.Errorf(vmstate.Conflict, "cannot resolve %s: there is nothing to be decided", name)
	}
	return vmstate.Decision{
		VM: name, Migration: vm.Migration, Error: vm.Error,
		Source: vmstate.Witness{PID: 100, Seen: "stands", Binary: "/usr/bin/qemu", Version: "7.2.22"},
		Target: vmstate.Witness{PID: 200, Seen: "mute", Binary: "/opt/qemu", Version: "10.0.2"},
		Choices: []vmstate.Choice{
			{To: "source", Allowed: true, Why: "the target is killed, and the guest goes on in the source"},
			{To: "target", Why: "the target does not answer"},
			{To: "discard", Allowed: true, Why: "both are killed, and the guest is gone"},
		},
	}, nil
}

// ResolveVM implements restapi.Service.
func (s *Service) ResolveVM(ctx context.Context, name, to string) (vmstate.VM, error) {
	d, err := s.Undecided(ctx, name)
	if err != nil {
		return vmstate.VM{}, err
	}
	for _, c := range d.Choices {
		if c.To == to && !c.Allowed {
			return vmstate.VM{}, vmstate.Errorf(vmstate.Conflict, "cannot resolve %s to %s: %s", name, to, c.Why)
		}
	}
	if to == "discard" {
		return s.become(name, vmstate.Stopped)
	}
	return s.become(name, vmstate.Running)
}

// Console implements restapi.Service.
func (s *Service) Console(name string, input []byte) error {
	if _, err := s.find(name); err != nil {
		return err
	}
	kept := slices.Clone(input)
	s.typed.Store(&kept)
	return nil
}

// Metrics implements restapi.Service.
func (s *Service) Metrics() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4")
		fmt.Fprintf(w, "qlive_vms %d\n", len(s.Snapshot().VMs))
	})
}

func (s *Service) find(name string) (vmstate.VM, error) {
	if err := s.refused(); err != nil {
		return vmstate.VM{}, err
	}
	vm, ok := s.Snapshot().VM(name)
	if !ok {
		e := vmstate.Errorf(vmstate.NotFound, "cannot find VM %q", name)
		e.VM = name
		return vm, e
	}
	return vm, nil
}

func (s *Service) become(name string, status vmstate.Status) (vmstate.VM, error) {
	vm, err := s.find(name)
	if err != nil {
		return vm, err
	}
	vm.Status = status
	s.SetVM(vm)
	return vm, nil
}
