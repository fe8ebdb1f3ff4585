package stage

import (
	"cmp"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"qlive/integration/guest/beats"
	"qlive/integration/guest/wire"
)

const (
	lookEvery = 10 * time.Millisecond
	// A vCPU that is only loaded with a state, or told to stand, has some tenths of a millisecond of the processor.
	hasRun   = 5 * time.Millisecond // proof that a QEMU runs the guest
	runsOn   = 2 * time.Millisecond // proof that it has not stopped
	findEach = 4                    // looks between two looks for new processes
)

// Witness follows one guest from outside. Its methods may be called from any goroutine; Close ends its own.
type Witness struct {
	finder *finder
	dir    string // of the VM
	stop   chan struct{}
	gone   chan struct{}

	mu       sync.Mutex
	looks    int
	qemus    map[int]*QEMU // by pid, the latest of a number
	order    []*QEMU       // all that were seen, in the order of their start
	runner   *QEMU         // the last that was seen to run the guest
	consoles []*console
	speaker  *console // the last that the guest has written on
	parser   beats.Parser
	mems     map[string]wire.Mem
	recent   []byte
	faults   []string
}

// NewWitness follows the VM of that name in the folder of VMs. It must not have been started yet.
func NewWitness(vms, name string) *Witness {
	w := &Witness{
		finder: newFinder(vms, name), dir: filepath.Join(vms, name), stop: make(chan struct{}), gone: make(chan struct{}),
		qemus: make(map[int]*QEMU), mems: make(map[string]wire.Mem),
	}
	w.parser.OnLine = func(kind string, payload []byte, _ time.Time) {
		if m, err := wire.ParseMem(payload); kind == wire.KindMem && err == nil {
			w.mems[m.Tag] = m
		}
	}
	go w.follow()
	return w
}

// Close ends it.
func (w *Witness) Close() {
	close(w.stop)
	<-w.gone
	for _, c := range w.consoles {
		c.file.Close()
	}
}

func (w *Witness) follow() {
	defer close(w.gone)
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-w.stop:
			return
		case <-tick.C:
			w.Look()
		}
	}
}

// Look looks now. It is done every few milliseconds anyhow.
func (w *Witness) Look() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.looks%findEach == 0 {
		w.findQEMUs()
		w.findConsoles()
	}
	w.looks++
	w.readConsoles()
	for _, q := range w.order {
		w.watchQEMU(q)
	}
}

func (w *Witness) faultf(format string, args ...any) {
	if len(w.faults) < 20 {
		w.faults = append(w.faults, fmt.Sprintf(format, args...))
	}
}

func (w *Witness) findQEMUs() {
	found, err := w.finder.find(w.qemus)
	if err != nil {
		w.faultf("cannot look at the processes: %v", err)
	}
	for _, q := range found {
		w.qemus[q.PID] = q
		w.order = append(w.order, q)
	}
	slices.SortFunc(w.order, func(a, b *QEMU) int {
		return cmp.Or(cmp.Compare(a.Start, b.Start), cmp.Compare(a.Generation, b.Generation))
	})
}

// watchQEMU sees whether a QEMU runs the guest, and finds fault if one does that must have stopped for good: the guest goes from QEMU to
// QEMU in the order of their start, and never back into one that it has left.
func (w *Witness) watchQEMU(q *QEMU) {
	if q.dead {
		return
	}
	if !q.lives() {
		q.dead = true
		return
	}
	ran, ok := q.ranFor()
	if !ok {
		return
	}
	gained := ran - q.ran
	switch {
	case w.runner != nil && w.after(w.runner, q):
		if gained > runsOn {
			w.faultf("QEMU %d of generation %d runs the guest (%v), though %d of generation %d has run it", q.PID, q.Generation, gained, w.runner.PID, w.runner.Generation)
		}
	case ran > hasRun && w.runner != q:
		// What the earlier one did until this one began is right, and may not have been seen yet.
		for _, earlier := range w.order {
			if now, ok := earlier.ranFor(); ok && !earlier.dead && earlier != q {
				earlier.ran = now
			}
		}
		w.runner = q
	}
	q.ran = ran
}

// after tells whether a was started after b.
func (w *Witness) after(a, b *QEMU) bool { return slices.Index(w.order, a) > slices.Index(w.order, b) }

// Living are the QEMUs that live now, in the order of their start.
func (w *Witness) Living() []*QEMU {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.findQEMUs()
	var list []*QEMU
	for _, q := range w.order {
		if w.watchQEMU(q); !q.dead {
			list = append(list, q)
		}
	}
	return list
}

// Report is what the guest has said so far.
func (w *Witness) Report() beats.Report {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.parser.Report()
}

// Beats counts the beats that have arrived.
func (w *Witness) Beats() uint64 { return w.Report().Beats }

// Verified gives the verification of that tag.
func (w *Witness) Verified(tag string) (wire.Mem, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	m, ok := w.mems[tag]
	return m, ok
}

// Last is the newest that the guest has written, for messages.
func (w *Witness) Last() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return string(w.recent)
}

// Check returns an error if the guest was seen in two QEMUs, or says itself that something is wrong.
func (w *Witness) Check() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.faults) > 0 {
		return fmt.Errorf("%d faults: %q", len(w.faults), slices.Compact(slices.Clone(w.faults)))
	}
	report := w.parser.Report()
	if report.Beats == 0 {
		return nil
	}
	return report.Check()
}
