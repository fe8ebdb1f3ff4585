package daemon

import (
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"qlive/vmstate"
)

// keptMigrations is how many ended migrations are remembered, over all VMs.
const keptMigrations = 256

// registry holds what is known of every VM and migration. A change builds the next snapshot and emits its event under one
// lock; readers load the snapshot and never wait.
type registry struct {
	version string
	hub     *hub

	mu       sync.Mutex
	snapshot atomic.Pointer[vmstate.Snapshot]
}

func newRegistry(version string, h *hub) *registry {
	r := &registry{version: version, hub: h}
	r.snapshot.Store(&vmstate.Snapshot{Version: version, At: time.Now().UTC()})
	return r
}

// Snapshot is the newest state. It never blocks and is never nil.
func (r *registry) Snapshot() *vmstate.Snapshot { return r.snapshot.Load() }

// Subscribe is a place in the stream of events, see [hub.subscribe].
func (r *registry) Subscribe(after uint64) vmstate.Subscription {
	return r.hub.subscribe(after, func() vmstate.State {
		s := r.Snapshot()
		return vmstate.State{Version: s.Version, Health: s.Health, VMs: orEmpty(s.VMs), Migrations: orEmpty(s.Migrations)}
	})
}

// orEmpty makes JSON say [] rather than null.
func orEmpty[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}

// change replaces the snapshot by one that f has changed, and emits e. f gets a copy whose slices it must replace, not write.
func (r *registry) change(e vmstate.Event, f func(*vmstate.Snapshot)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	next := *r.snapshot.Load()
	f(&next)
	next.At = time.Now().UTC()
	next.Seq = r.hub.seqAfter()
	r.snapshot.Store(&next)
	r.hub.emit(e)
}

func (r *registry) putVM(vm vmstate.VM) {
	r.change(vmstate.Event{Type: vmstate.EventVM, VM: vm.Name, Migration: vm.Migration, Data: vm}, func(s *vmstate.Snapshot) {
		s.VMs = replaced(s.VMs, vm, func(v vmstate.VM) string { return v.Name })
		slices.SortFunc(s.VMs, func(a, b vmstate.VM) int { return strings.Compare(a.Name, b.Name) })
	})
}

func (r *registry) dropVM(name string) {
	r.change(vmstate.Event{Type: vmstate.EventVM, VM: name, Deleted: true}, func(s *vmstate.Snapshot) {
		s.VMs = slices.DeleteFunc(slices.Clone(s.VMs), func(v vmstate.VM) bool { return v.Name == name })
	})
}

// putMigration shows m, and its regions as those of its VM.
func (r *registry) putMigration(m vmstate.Migration) {
	r.change(vmstate.Event{Type: vmstate.EventMigration, VM: m.VM, Migration: m.ID, Data: m}, func(s *vmstate.Snapshot) {
		s.Migrations = replaced(s.Migrations, m, func(m vmstate.Migration) string { return m.ID })
		slices.SortStableFunc(s.Migrations, func(a, b vmstate.Migration) int { return b.StartedAt.Compare(a.StartedAt) })
		if len(s.Migrations) > keptMigrations {
			s.Migrations = s.Migrations[:keptMigrations:keptMigrations]
		}
	})
}

func (r *registry) putHealth(h vmstate.Health) {
	r.change(vmstate.Event{Type: vmstate.EventHealth, Data: h}, func(s *vmstate.Snapshot) { s.Health = h })
}

// replaced is a copy of items in which the one with item's key is item, or item stands at the end.
func replaced[T any](items []T, item T, key func(T) string) []T {
	next := slices.Clone(items)
	for i := range next {
		if key(next[i]) == key(item) {
			next[i] = item
			return next
		}
	}
	return append(next, item)
}
