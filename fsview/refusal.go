package fsview

import (
	"sync"
	"time"

	"qlive/vmstate"
)

// A refusal is why the last write to a VM's ctl was refused.
type refusal struct {
	at        time.Time
	line      string    // what was written
	started   time.Time // of the VM, to tell it from a later one of that name
	migration string    // of the VM at that time
	problem   *vmstate.Problem
}

// refusals are the last refusal of each VM. There are never more of them than VMs.
type refusals struct {
	mu   sync.Mutex
	byVM map[string]refusal
}

// note remembers that vm refused what was written, unless the VM is gone by now.
func (r *refusals) note(snap *vmstate.Snapshot, now time.Time, vm, line string, err error) {
	found := findVM(snap, vm)
	r.mu.Lock()
	defer r.mu.Unlock()
	for name := range r.byVM {
		if findVM(snap, name) == nil {
			delete(r.byVM, name)
		}
	}
	if found == nil {
		return
	}
	if r.byVM == nil {
		r.byVM = make(map[string]refusal)
	}
	r.byVM[vm] = refusal{now, line, found.StartedAt, found.Migration, vmstate.ProblemOf(err)}
}

// forget is called when vm has accepted a command.
func (r *refusals) forget(vm string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.byVM, vm)
}

// of is the refusal that vm's migration/error should show instead of what m, vm's migration, says itself: the
// last one, if m has not ended and no other migration has begun since.
func (r *refusals) of(vm *vmstate.VM, m *vmstate.Migration) *refusal {
	r.mu.Lock()
	last, ok := r.byVM[vm.Name]
	r.mu.Unlock()
	switch {
	case !ok, !last.started.Equal(vm.StartedAt), last.migration != vm.Migration:
		return nil
	case m != nil && m.EndedAt != nil && m.EndedAt.After(last.at):
		return nil
	}
	return &last
}
