package start_test

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"qlive/integration/env"
	"qlive/integration/lab"
	"qlive/internal/failpoint"
	"qlive/internal/proc"
	"qlive/restapi/client"
	"qlive/vmstate"
)

// sample is what the tree says of a region at one moment.
type sample struct {
	state    vmstate.RegionState
	progress int
	mapped, populated,
	flipped, released,
	done uint64
	owner int
	note  string
}

// treeRegion reads a region's files.
func treeRegion(l *lab.Lab, vm, region string) (s sample, err error) {
	read := func(name string) string {
		text, e := os.ReadFile(filepath.Join(l.Mount, vm, "regions", region, name))
		err = cmp.Or(err, e)
		return strings.TrimSuffix(string(text), "\n")
	}
	number := func(name string) uint64 {
		n, e := strconv.ParseUint(read(name), 10, 64)
		err = cmp.Or(err, e)
		return n
	}
	s = sample{state: vmstate.RegionState(read("state")), progress: int(number("progress")), mapped: number("mapped_bytes"), populated: number("populated_bytes"),
		flipped: number("flipped_bytes"), released: number("released_bytes"), done: number("done_bytes"), owner: int(number("owner_pid")), note: read("note")}
	return s, err
}

// behind tells whether s is behind what was seen before in anything.
func (s sample) behind(was sample) bool {
	return s.state.Rank() < was.state.Rank() || s.progress < was.progress || s.done < was.done ||
		s.mapped < was.mapped || s.populated < was.populated || s.flipped < was.flipped || s.released < was.released
}

// observer reads the tree without pause while a migration runs, and keeps the states that it has seen of each region.
type observer struct {
	l       *lab.Lab
	regions []string
	stop    chan struct{}
	done    sync.WaitGroup
	seen    map[string][]vmstate.RegionState
	phases  []string
	reads   int
}

func (o *observer) run(t *testing.T) {
	last := map[string]sample{}
	for {
		for _, name := range o.regions {
			s, err := treeRegion(o.l, "vm1", name)
			if err != nil {
				t.Errorf("reading region %s: %v", name, err)
				return
			}
			// Files are read one after the other: only each by itself never goes back.
			if was := last[name]; was.state != "" && s.behind(was) {
				t.Errorf("region %s goes from %+v to %+v", name, was, s)
			}
			last[name] = s
			if !slices.Contains(o.seen[name], s.state) {
				o.seen[name] = append(o.seen[name], s.state)
			}
			o.reads++
		}
		phase, err := os.ReadFile(filepath.Join(o.l.Mount, "vm1/migration/phase"))
		if err != nil {
			t.Error(err)
		}
		if p := strings.TrimSpace(string(phase)); !slices.Contains(o.phases, p) {
			o.phases = append(o.phases, p)
		}
		select {
		case <-o.stop:
			return
		default:
		}
	}
}

// Regions go from owned to released, through what is observed of them, never back, in the tree and in events alike: a full one is populated
// beforehand, one with holes is not, and says so.
func TestProgress(t *testing.T) {
	points, err := failpoint.New("")
	if err != nil {
		t.Fatal(err)
	}
	l := lab.New(t, lab.Options{Failpoints: points})
	vm := l.Boot(lab.Spec{NoRAM: true, CPUs: 2, Guest: small(), Args: []string{"-m", "320",
		"-object", "memory-backend-ram,id=full,size=192M,prealloc=on", "-object", "memory-backend-ram,id=sparse,size=128M",
		"-numa", "node,memdev=full,cpus=0", "-numa", "node,memdev=sparse,cpus=1"}})
	for round, version := range []string{env.Newest, env.Installed} { // the second begins again from owned
		t.Run(version, func(t *testing.T) { stepByStep(t, l, vm, points, round, version) })
	}
}

const full, sparse = 192 * mib, 128 * mib // bytes of the two regions

// stepByStep hands the guest over and stops wherever something of a region is to be seen.
func stepByStep(t *testing.T, l *lab.Lab, vm *lab.VM, points *failpoint.Set, round int, version string) {
	before := vm.Show()
	blocks := allocated(t, before.PID, before.Regions[1])
	arm(t, points, "flip.verify-mapping.before", "1*block")
	arm(t, points, "flip.end-source.before", "1*block")
	events := follow(t, l)
	m, err := l.Client.Migrate(t.Context(), vmstate.MigrationSpec{VM: "vm1", Binary: l.Env.QEMU(version), Hold: true}, "")
	if err != nil {
		t.Fatal(err)
	}
	o := &observer{l: l, regions: []string{"full", "sparse"}, stop: make(chan struct{}), seen: map[string][]vmstate.RegionState{}}
	o.done.Go(func() { o.run(t) })
	end := sync.OnceFunc(func() { close(o.stop); o.done.Wait() })
	t.Cleanup(end) // also if the test does not come to its end

	at(t, points, "flip.verify-mapping.before", round+1)
	source := before.PID
	expect(t, l, "full", sample{state: vmstate.Owned, owner: source, note: "none"})
	expect(t, l, "sparse", sample{state: vmstate.Owned, owner: source, note: "none"})
	points.Release("flip.verify-mapping.before")

	m = reach(t, l, m.ID, vmstate.Prepared)
	expect(t, l, "full", sample{state: vmstate.Populated, progress: 50, mapped: full, populated: full, done: full / 2, owner: source, note: "none"})
	expect(t, l, "sparse", sample{state: vmstate.Mapped, progress: 25, mapped: sparse, done: sparse / 4, owner: source, note: "holes"})
	for i, r := range m.Regions { // and so it is
		if got := mappedShared(t, m.To.PID, r.Inode); got < r.SizeBytes {
			t.Errorf("the target maps %d bytes of %s", got, r.Name)
		}
		if got := present(t, m.To.PID, r.Inode); i == 0 && got != full || i == 1 && got == sparse {
			t.Errorf("%d bytes of %s are in the target's page tables", got, r.Name)
		}
	}
	if _, err := l.Client.Continue(t.Context(), m.ID); err != nil {
		t.Fatal(err)
	}

	at(t, points, "flip.end-source.before", round+1)
	expect(t, l, "full", sample{state: vmstate.Flipped, progress: 75, mapped: full, populated: full, flipped: full, done: full / 4 * 3, owner: m.To.PID, note: "none"})
	expect(t, l, "sparse", sample{state: vmstate.Flipped, progress: 75, mapped: sparse, flipped: sparse, done: sparse / 4 * 3, owner: m.To.PID, note: "holes"})
	vm.AwaitBeats(10) // the target runs it, though the source is still there
	points.Release("flip.end-source.before")

	m = reach(t, l, m.ID, vmstate.Completed)
	expect(t, l, "full", sample{state: vmstate.Released, progress: 100, mapped: full, populated: full, flipped: full, released: full, done: full, owner: m.To.PID, note: "none"})
	expect(t, l, "sparse", sample{state: vmstate.Released, progress: 100, mapped: sparse, flipped: sparse, released: sparse, done: sparse, owner: m.To.PID, note: "holes"})
	end()
	o.check(t)
	checkEvents(t, events.end(m.ID), m)
	if got := allocated(t, m.To.PID, m.Regions[1]); got > blocks+4*mib {
		t.Errorf("the sparse region held %d bytes and holds %d: its holes have been filled", blocks, got)
	}
	vm.CheckMemory()
}

// check makes sure that every state has been seen, in order.
func (o *observer) check(t *testing.T) {
	t.Helper()
	states := vmstate.RegionStates()
	if got := o.seen["full"]; !slices.Equal(got, states) {
		t.Errorf("the tree showed %v of the full region, want %v", got, states)
	}
	if got, want := o.seen["sparse"], slices.DeleteFunc(states, func(s vmstate.RegionState) bool { return s == vmstate.Populated }); !slices.Equal(got, want) {
		t.Errorf("the tree showed %v of the sparse region, want %v", got, want)
	}
	t.Logf("%d readings of the tree; it showed the phases %v", o.reads, o.phases)
}

func arm(t *testing.T, points *failpoint.Set, name, terms string) {
	t.Helper()
	if err := points.Arm(name, terms); err != nil {
		t.Fatal(err)
	}
}

// at waits until a point has been reached n times in all.
func at(t *testing.T, points *failpoint.Set, name string, n int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), lab.Limit)
	defer cancel()
	if err := points.Await(ctx, name, n); err != nil {
		t.Fatal(err)
	}
}

// expect compares a region in the tree and in REST with what must be seen of it now. A note is compared by what it contains.
func expect(t *testing.T, l *lab.Lab, name string, want sample) {
	t.Helper()
	got, err := treeRegion(l, "vm1", name)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(got.note, want.note) {
		t.Errorf("the note of %s is %q, want %q in it", name, got.note, want.note)
	}
	want.note = got.note
	if got != want {
		t.Errorf("the tree says of %s %+v, want %+v", name, got, want)
	}
	vm, err := l.Client.VM(t.Context(), "vm1")
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(vm.Regions, func(r vmstate.Region) bool { return r.Name == name })
	r := vm.Regions[i]
	if rest := (sample{state: r.State, progress: r.Progress, mapped: r.MappedBytes, populated: r.PopulatedBytes, flipped: r.FlippedBytes,
		released: r.ReleasedBytes, done: r.DoneBytes, owner: r.OwnerPID, note: cmp.Or(r.Note, "none")}); rest != want {
		t.Errorf("REST says of %s %+v, want %+v", name, rest, want)
	}
}

// present is how much of an inode is in a process's page tables.
func present(t *testing.T, pid int, inode uint64) (total uint64) {
	t.Helper()
	maps, err := proc.ReadMaps(pid)
	if err != nil {
		t.Fatal(err)
	}
	tables, err := proc.OpenPagemap(pid)
	if err != nil {
		t.Fatal(err)
	}
	defer tables.Close()
	for _, m := range maps {
		if m.Inode == inode && strings.Contains(m.Path, "qlive-vm") {
			n, err := tables.PresentBytes(proc.Range{Start: m.Start, End: m.End})
			if err != nil {
				t.Fatal(err)
			}
			total += n
		}
	}
	return total
}

// stream is what was sent to a listener.
type stream struct {
	cancel context.CancelFunc
	done   chan struct{}
	mu     sync.Mutex
	events []vmstate.Event
}

// follow listens to the events from now on.
func follow(t *testing.T, l *lab.Lab) *stream {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	s := &stream{cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(s.done)
		for e, err := range l.Client.Events(ctx, client.Watch{}) {
			if err != nil {
				return
			}
			s.mu.Lock()
			s.events = append(s.events, e)
			s.mu.Unlock()
		}
	}()
	t.Cleanup(func() { cancel(); <-s.done })
	await(t, "the first event", lab.Limit, func() error {
		if len(s.all()) == 0 {
			return fmt.Errorf("there is none")
		}
		return nil
	})
	return s
}

func (s *stream) all() []vmstate.Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.events)
}

// end waits until the migration's end has been sent, and gives all events.
func (s *stream) end(id string) []vmstate.Event {
	for deadline := time.Now().Add(lab.Limit); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		for _, e := range s.all() {
			if m, ok := e.Data.(vmstate.Migration); ok && m.ID == id && m.Phase.Ended() {
				return s.all()
			}
		}
	}
	return s.all()
}

// checkEvents makes sure that the events tell the whole story of a migration, in order, and the same as its end.
func checkEvents(t *testing.T, events []vmstate.Event, m vmstate.Migration) {
	t.Helper()
	var phases []vmstate.Phase
	last := map[string]vmstate.Region{}
	states := map[string][]vmstate.RegionState{}
	for i, e := range events {
		if i > 0 && e.Seq != events[i-1].Seq+1 {
			t.Errorf("event %d follows %d", e.Seq, events[i-1].Seq)
		}
		now, ok := e.Data.(vmstate.Migration)
		if !ok || now.ID != m.ID {
			continue
		}
		if len(phases) == 0 || phases[len(phases)-1] != now.Phase {
			phases = append(phases, now.Phase)
		}
		for _, r := range now.Regions {
			was := last[r.Name]
			if r.State.Rank() < was.State.Rank() && was.State != "" || r.DoneBytes < was.DoneBytes || r.Progress < was.Progress {
				t.Errorf("event %d: region goes from %+v to %+v", e.Seq, was, r)
			}
			if last[r.Name] = r; !slices.Contains(states[r.Name], r.State) {
				states[r.Name] = append(states[r.Name], r.State)
			}
		}
	}
	// committing is published with committed, so that nobody is woken inside the pause.
	want := []vmstate.Phase{vmstate.Planned, vmstate.Preparing, vmstate.Prepared, vmstate.Switching, vmstate.Committed, vmstate.Draining, vmstate.Completed}
	if !slices.Equal(phases, want) {
		t.Errorf("the events tell the phases %v, want %v", phases, want)
	}
	if got := states["full"]; !slices.Equal(got, vmstate.RegionStates()) {
		t.Errorf("the events tell of the full region %v", got)
	}
}
