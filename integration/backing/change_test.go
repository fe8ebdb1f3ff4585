package backing_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"qlive/integration/env"
	"qlive/integration/lab"
	"qlive/vmstate"
)

// A guest that dirties its memory goes from ordinary pages into huge ones, into a file on hugetlbfs, into another one there, and back, from version to version
// of QEMU: each time it is all there, never more than the chunks in flight are held twice, holes stay holes, and the pool is as it was. From huge pages into
// huge pages the pool need not have more than the chunks in flight besides, and is refused if it has less.
func TestThereAndBack(t *testing.T) {
	pages := 128 + inFlightPages() // for 256 MiB once
	setPool := wantPool(t, pages)
	folder := hugetlbfs(t)
	l := lab.New(t, lab.Options{NoTree: true})
	vm := l.Boot(lab.Spec{Guest: small()})
	file := vmstate.MemorySpec{Backing: vmstate.Hugetlbfs, Path: folder}
	for _, to := range []change{
		{env.Newest, vmstate.MemorySpec{Backing: vmstate.Hugetlb, PageBytes: 2 * mib}, 2 * mib},
		{env.Installed, file, 2 * mib},
		{env.Backport, file, 2 * mib},
		{env.Backport, vmstate.MemorySpec{Backing: vmstate.Memfd, Nodes: []int{0}}, 4096},
	} {
		t.Run(to.version+" "+string(to.memory.Backing), func(t *testing.T) {
			if to.version == env.Installed {
				setPool(pages - 1)
				m := vm.Migrate(vmstate.MigrationSpec{Binary: l.Env.QEMU(to.version), Memory: &to.memory, MaxPauseMS: 60_000})
				refused(t, m, vmstate.Exhausted, fmt.Sprintf("%d huge pages of 2 MiB for vm1: %d of", inFlightPages(), inFlightPages()-1), "vm.nr_hugepages=")
				setPool(pages)
			}
			to.make(t, l, vm)
			if left, err := os.ReadDir(folder); err != nil || len(left) > 1 || (len(left) == 1) != (to.memory.Path != "") {
				t.Errorf("%v are left in the folder (%v)", left, err)
			}
			want := pages
			if to.pages > 4096 {
				want -= 128 // the whole of the file is promised, and nothing else
			}
			if p := pool(t); p.Available() != want {
				t.Errorf("the pool is %+v, %d pages should be free", p, want)
			}
		})
	}
	vm.HandOver(env.Installed, "")
	vm.CheckMemory()

	// One that stands stays so, and has its memory when it goes on.
	if _, err := l.Client.Pause(t.Context(), vm.Name); err != nil {
		t.Fatal(err)
	}
	m := vm.Migrate(vmstate.MigrationSpec{Binary: l.Env.QEMU(env.Newest), Memory: &vmstate.MemorySpec{Backing: vmstate.Hugetlb}, MaxPauseMS: 60_000})
	if now := vm.Show(); m.Phase != vmstate.Completed || now.Status != vmstate.Paused || m.PauseUS != nil {
		t.Fatalf("%s: %+v; the guest is %s", m.Phase, m.Error, now.Status)
	}
	is(t, vm.Show(), vmstate.Hugetlb, 2*mib)
	if _, err := l.Client.Resume(t.Context(), vm.Name); err != nil {
		t.Fatal(err)
	}
	vm.AwaitBeats(50)
	vm.CheckMemory()
}

// change is another backing that a guest is given.
type change struct {
	version string
	memory  vmstate.MemorySpec
	pages   uint64 // their size
}

// make changes the backing, and looks at what is held meanwhile.
func (to change) make(t *testing.T, l *lab.Lab, vm *lab.VM) {
	t.Helper()
	before, inode := blocks(t), vm.Show().Regions[0].Inode
	anon, err := anonymous()
	if err != nil {
		t.Fatal(err)
	}
	s := sample(t)
	m := vm.Migrate(vmstate.MigrationSpec{Binary: l.Env.QEMU(to.version), Memory: &to.memory, MaxPauseMS: 60_000})
	s.end(t)
	if m.Phase != vmstate.Completed {
		t.Fatalf("%s: %+v\nlog: %+v", m.Phase, m.Error, m.Log)
	}
	now := vm.Show()
	is(t, now, to.memory.Backing, to.pages)
	if now.Regions[0].Inode == inode || m.EstimateUS == nil || *m.EstimateUS <= 0 || m.Progress != 100 {
		t.Errorf("the migration is %+v", m)
	}
	after := blocks(t)
	t.Logf("%d MiB before, %d at the most (%d by the pool), %d after; estimated %d ms, pause %d ms", before/mib, s.files.bytes/mib, s.pool.bytes/mib, after/mib,
		*m.EstimateUS/1000, *m.PauseUS/1000)
	for by, n := range map[string]uint64{"files": s.files.bytes, "pool": s.pool.bytes} {
		if n < min(before, after) || n > max(before, after)+inFlight() {
			t.Errorf("%d bytes were held as the %s have it, %d before and %d after", n, by, before, after)
		}
	}
	if after >= 256*mib {
		t.Errorf("%d bytes are held: holes have been filled", after)
	}
	// The source, the target and the daemon, and what they need in passing: less than a guest's RAM.
	then, err := anonymous()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("private: %d MiB before, %d at the most, %d after", anon/mib, s.anon.bytes/mib, then/mib)
	if s.anon.bytes > anon+then+32*mib {
		t.Errorf("%d bytes of private memory were held, %d before and %d after", s.anon.bytes, anon, then)
	}
	vm.AwaitBeats(50)
	vm.CheckMemory()
	if err := nothingMoved(l.RunDir()); err != nil {
		t.Error(err)
	}
}

// What cannot be is refused with the numbers, and the guest has noticed nothing.
func TestRefused(t *testing.T) {
	wantPool(t, 127)
	l := lab.New(t, lab.Options{NoTree: true})
	vm := l.Boot(lab.Spec{Guest: small(), MiB: 1024})
	huge := vmstate.MemorySpec{Backing: vmstate.Hugetlb, PageBytes: 2 * mib}
	ask := func(spec vmstate.MigrationSpec) vmstate.Migration {
		spec.Binary = l.Env.QEMU(env.Newest)
		return vm.Migrate(spec)
	}
	refused(t, ask(vmstate.MigrationSpec{Memory: &huge, MaxPauseMS: 60_000}), vmstate.Exhausted, "512 huge pages of 2 MiB", "127 of the pool's", "vm.nr_hugepages=")
	refused(t, ask(vmstate.MigrationSpec{Memory: &vmstate.MemorySpec{}}), vmstate.Invalid, "already")
	refused(t, ask(vmstate.MigrationSpec{Memory: &vmstate.MemorySpec{Backing: vmstate.Memfd, Nodes: []int{0}}, MaxPauseMS: 1}), vmstate.Timeout, "max_pause_ms, 1 ms", "MiB/s", "--max-pause")
	refused(t, ask(vmstate.MigrationSpec{Memory: &vmstate.MemorySpec{Backing: vmstate.Memfd, Nodes: []int{63}}}), vmstate.Invalid, "NUMA nodes [63]")
	for _, spec := range []vmstate.MigrationSpec{{Memory: &huge, Way: vmstate.WayLive}, {Memory: &huge, Mode: vmstate.ModePostcopy}} {
		spec.VM = vm.Name
		if _, err := l.Client.Migrate(t.Context(), spec, ""); vmstate.KindOf(err) != vmstate.Invalid {
			t.Errorf("%v", err)
		}
	}
	is(t, vm.Show(), vmstate.Memfd, 4096)
	if err := nothingMoved(l.RunDir()); err != nil {
		t.Error(err)
	}
	vm.AwaitBeats(50)
	vm.CheckMemory()
	if log := strings.Join(vm.Show().Warnings, "\n"); strings.Contains(log, "NUMA") {
		t.Error(log)
	}

	// A page of 1 GiB is hard to find once a host has run for a while. Where there is one the guest gets it, and comes out of it again.
	giant := vmstate.MigrationSpec{Memory: &vmstate.MemorySpec{Backing: vmstate.Hugetlb, PageBytes: gib}, MaxPauseMS: 60_000}
	switch found, known := giantPages(t, 0); {
	case !known:
		refused(t, ask(giant), vmstate.Unsupported, "1 GiB")
		t.Log("this host has no pages of 1 GiB: seen only that they are refused")
		return
	case found == 0:
		refused(t, ask(giant), vmstate.Exhausted, "1 huge pages of 1 GiB for vm1: 0 of", "nr_hugepages")
	}
	if found, _ := giantPages(t, 1); found == 0 {
		t.Log("the kernel finds no page of 1 GiB: seen only that it is refused")
		return
	}
	for _, to := range []vmstate.MemorySpec{*giant.Memory, {Backing: vmstate.Memfd}} {
		m := ask(vmstate.MigrationSpec{Memory: &to, MaxPauseMS: 60_000})
		if m.Phase != vmstate.Completed {
			t.Fatalf("%s: %+v\nlog: %+v", m.Phase, m.Error, m.Log)
		}
		is(t, vm.Show(), to.Backing, max(to.PageBytes, 4096))
		if n := blocks(t); to.Backing == vmstate.Memfd && n >= 512*mib {
			t.Errorf("%d bytes are held: holes have been filled", n)
		}
		vm.AwaitBeats(50)
		vm.CheckMemory()
	}
}
