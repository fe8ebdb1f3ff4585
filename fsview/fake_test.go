package fsview_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"qlive/fsview"
	"qlive/vmstate"
)

// fake is a Source whose state the test sets.
type fake struct {
	snap    atomic.Pointer[vmstate.Snapshot]
	answer  atomic.Pointer[vmstate.Error] // of commands, if control is not set; nil accepts them
	control func(ctx context.Context, vm string, cmd fsview.Command, caller fsview.Caller) error
	look    func(vm string)
	lull    atomic.Pointer[func() <-chan struct{}]
	backlog int // events that a listener may fall behind

	mu     sync.Mutex
	closed bool
	subs   map[chan vmstate.Event]bool
	opened int // subscriptions ever
}

func newFake(s *vmstate.Snapshot) *fake {
	f := &fake{backlog: 100, subs: make(map[chan vmstate.Event]bool)}
	f.snap.Store(s)
	return f
}

func (f *fake) Snapshot() *vmstate.Snapshot { return f.snap.Load() }

func (f *fake) Lull() <-chan struct{} {
	if lull := f.lull.Load(); lull != nil {
		return (*lull)()
	}
	return nil
}

func (f *fake) Look(vm string) {
	if f.look != nil {
		f.look(vm)
	}
}

func (f *fake) Control(ctx context.Context, vm string, cmd fsview.Command, caller fsview.Caller) error {
	if f.control != nil {
		return f.control(ctx, vm, cmd, caller)
	}
	if e := f.answer.Load(); e != nil {
		return e
	}
	return nil
}

func (f *fake) Subscribe(uint64) vmstate.Subscription {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.snap.Load()
	events := make(chan vmstate.Event, f.backlog+2)
	events <- vmstate.Event{Seq: s.Seq, At: s.At, Type: vmstate.EventReset,
		Data: vmstate.State{Version: s.Version, Health: s.Health, VMs: s.VMs, Migrations: s.Migrations}}
	if f.closed {
		close(events)
		return vmstate.Subscription{Events: events, Close: func() {}}
	}
	f.subs[events] = true
	f.opened++
	return vmstate.Subscription{Events: events, Close: func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.drop(events)
	}}
}

func (f *fake) drop(events chan vmstate.Event) {
	if f.subs[events] {
		delete(f.subs, events)
		close(events)
	}
}

// send gives an event to all listeners, and cuts off the ones that have fallen behind.
func (f *fake) send(e vmstate.Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for events := range f.subs {
		if len(events) <= f.backlog {
			events <- e
			continue
		}
		events <- vmstate.Event{Seq: e.Seq, At: e.At, Type: vmstate.EventLost}
		f.drop(events)
	}
}

// close ends all subscriptions.
func (f *fake) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	for events := range f.subs {
		f.drop(events)
	}
}

func (f *fake) listeners() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.subs)
}

func at(second int) time.Time { return time.Date(2026, 1, 2, 15, 4, second, 678901000, time.UTC) }

func ptr[T any](v T) *T { return &v }

// example is a state with a VM that has completed a handoff, one in the middle of one, and one that never had any.
func example() *vmstate.Snapshot {
	const mib = 1 << 20
	ram := vmstate.Region{
		Name: "ram0", SizeBytes: 256 * mib, PageBytes: 4096, Backing: vmstate.Memfd, Inode: 4711, OwnerPID: 101,
		State: vmstate.Owned, TotalBytes: 256 * mib,
	}
	flipped := ram.Observe(256*mib, 0, 256*mib, 0).Advance(vmstate.Flipped)
	flipped.Note = "not populated: 12288 of 65536 pages are holes"
	odd := vmstate.Region{
		Name: "/objects/ram 1", SizeBytes: 512 * mib, PageBytes: 2 * mib, Backing: vmstate.Hugetlb, Inode: 4712,
		State: vmstate.Mapped, TotalBytes: 512 * mib,
	}.Observe(512*mib, 0, 0, 0)
	old := vmstate.QEMUProcess{Binary: "/usr/bin/qemu-system-x86_64", Version: "7.2.22", PID: 101}
	new := vmstate.QEMUProcess{Binary: "/opt/qemu-11/bin/qemu-system-x86_64", Version: "11.1.3", PID: 202}
	return &vmstate.Snapshot{
		Seq: 41, At: at(10), Version: "0.1.0",
		Health: vmstate.Health{Ready: true, Degraded: true, Problems: []vmstate.Problem{{Detail: "cannot use KVM: no such device"}}},
		VMs: []vmstate.VM{
			{
				Name: "vm1", Status: vmstate.Running, RunState: "running", PID: 202, Generation: 1, StartedAt: at(0), UptimeS: 10,
				Machine: "pc-q35-7.2", RAMBytes: 256 * mib, Regions: []vmstate.Region{flipped}, Migration: "mig-2",
				QEMU: vmstate.QEMUInfo{Binary: new.Binary, Version: new.Version, Outdated: true},
			},
			{
				Name: "vm2", Status: vmstate.Migrating, RunState: "paused", PID: 101, StartedAt: at(1), Machine: "pc-i440fx-7.2",
				RAMBytes: 768 * mib, Regions: []vmstate.Region{ram, odd}, Migration: "mig-1",
				QEMU: vmstate.QEMUInfo{Binary: old.Binary, Version: old.Version}, Warnings: []string{"no KVM"},
			},
			{Name: "vm3", Status: vmstate.Stopped, StartedAt: at(2), UptimeS: 7, QEMU: vmstate.QEMUInfo{Binary: old.Binary}},
		},
		Migrations: []vmstate.Migration{
			{
				ID: "mig-2", VM: "vm1", Mode: vmstate.ModeShared, Way: vmstate.WayDeviceState, Phase: vmstate.Completed, Progress: 100,
				From: old, To: new, StartedAt: at(3), EndedAt: ptr(at(5)), PauseUS: ptr(int64(2718)), QEMUPause: ptr(int64(2500)),
				TotalUS: 2_000_000, Regions: []vmstate.Region{flipped},
				Warnings: []string{"the guest will not go back after a reset", "slow\ndisk"},
				Log:      []vmstate.LogLine{{At: at(3), Text: "planned: mode shared"}, {At: at(5), Text: "completed"}},
			},
			{
				ID: "mig-1", VM: "vm2", Mode: vmstate.ModeShared, Way: vmstate.WayStopFirst, Phase: vmstate.RolledBack, Progress: 12,
				From: old, To: new, StartedAt: at(4), EndedAt: ptr(at(6)), UndoUS: ptr(int64(1000)), TotalUS: 1_000_000,
				Error: &vmstate.Problem{
					Type: vmstate.QEMU.ProblemType(), Title: "QEMU failed", Status: 502, Step: "start target",
					Detail: "cannot start the target: it exited with status 1", QEMU: []string{"unsupported machine type", "Use -machine help"},
					Remedy: "use a binary that has pc-q35-7.2",
				},
			},
		},
	}
}

// many is a state of n VMs.
func many(n int) *vmstate.Snapshot {
	s := &vmstate.Snapshot{At: at(0), Version: "0.1.0", Health: vmstate.Health{Ready: true}}
	for i := range n {
		vm := example().VMs[0]
		vm.Name = fmt.Sprintf("vm%05d", i)
		s.VMs = append(s.VMs, vm)
	}
	return s
}
