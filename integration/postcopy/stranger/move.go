package stranger

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"strconv"
	"sync"

	"github.com/rs/zerolog"

	"qlive/flip"
	"qlive/flip/memory"
	"qlive/internal/qemu"
	"qlive/internal/qmp"
	"qlive/internal/relay"
	"qlive/vmstate"
)

// Move is one handoff of a guest by postcopy into memory of qlive's.
type Move struct {
	*flip.Handoff
	Memory *memory.Set
	guest  *Guest
	user   *qemu.User
	To     string // version

	// OnTarget is told of the target's monitor as soon as there is one; nil for nobody.
	OnTarget func(*qmp.Client)

	mu      sync.Mutex
	Target  *flip.Side    // once it has been started
	Relay   *qemu.Process // nil if none was started
	records []flip.Record
	seen    []vmstate.Migration
}

// Options of a Move.
type Options struct {
	Mode       vmstate.Mode // postcopy if empty
	Failpoints flip.Failpoints
	Hold       bool
	Backing    vmstate.MemorySpec
	MaxPauseMS int        // 30 s if 0
	User       *qemu.User // that the target runs as; nil for that of this process
	// Relay is for a move with which this program may be run once more as a relay (package internal/relay).
	Relay bool
	// Recorded is told of every record, before the handoff goes on; nil for nobody.
	Recorded func(flip.Record)
	Log      zerolog.Logger
}

// Move prepares a handoff to a version of QEMU. Its memory is there until the guest is closed.
func (g *Guest) Move(to string, o Options) (*Move, error) {
	set, err := memory.Create(o.Backing, "stranger", []memory.Want{{Name: block, SizeBytes: uint64(g.Spec.MiB) << 20}})
	if err != nil {
		return nil, err
	}
	g.ends = append(g.ends, func() { _ = set.Close() }) // a memfd
	m := &Move{Memory: set, guest: g, user: o.User, To: to}
	var regions []vmstate.Region
	for _, r := range set.Regions() {
		regions = append(regions, r.Value().Reset(g.Source.Process.PID()))
	}
	mode := o.Mode
	if mode == "" {
		mode = vmstate.ModePostcopy
	}
	var between func(source, target *os.File) (*qemu.Process, error)
	if o.Relay {
		between = m.startRelay
	}
	m.Handoff = flip.New(flip.Config{
		Migration: vmstate.Migration{
			ID: "mig-1", VM: "stranger", Regions: regions,
			From: vmstate.QEMUProcess{Binary: g.Source.Binary, Version: g.Source.Version, PID: g.Source.Process.PID()},
		},
		Spec: vmstate.MigrationSpec{VM: "stranger", Mode: mode, Hold: o.Hold, TimeoutS: 60, MaxPauseMS: cmp.Or(o.MaxPauseMS, 30000)}, Number: 1,
		Mode: mode, Source: g.Source, Memory: set, Objects: map[string]string{block: block},
		Plan: func(context.Context) (vmstate.QEMUProcess, error) {
			return vmstate.QEMUProcess{Binary: g.env.QEMU(to), Version: to}, nil
		},
		Start: m.StartTarget, Journal: &journal{m: m, told: o.Recorded}, Publish: m.publish, Failpoints: o.Failpoints, Gate: new(sync.Mutex), Log: o.Log, Relay: between,
	})
	return m, nil
}

// startRelay starts the process between the two QEMUs.
func (m *Move) startRelay(source, target *os.File) (*qemu.Process, error) {
	p, err := qemu.StartSelf(qemu.Command{Args: []string{relay.Verb}, Files: []*os.File{source, target}, Log: m.guest.path("relay", "log"), Env: []string{}})
	m.mu.Lock()
	m.Relay = p
	m.mu.Unlock()
	return p, err
}

// block is the RAM block of a plain -m.
const block = "pc.ram"

// StartTarget starts the other QEMU, waiting for the guest. Run does it by itself.
func (m *Move) StartTarget(ctx context.Context) (*flip.Side, error) {
	size := strconv.Itoa(m.guest.Spec.MiB)
	args := append(m.guest.args("target"), "-m", size, "-machine", machine+",memory-backend="+block,
		"-object", fmt.Sprintf("memory-backend-file,id=%s,size=%sM,mem-path=/proc/self/fd/3,share=on", block, size), "-S", "-incoming", "defer")
	side, err := m.guest.run(ctx, "target", m.To, qemu.Command{Args: args, Files: m.Memory.Files(), User: m.user})
	m.mu.Lock()
	m.Target = side
	m.mu.Unlock()
	if err == nil && m.OnTarget != nil {
		m.OnTarget(side.Monitor)
	}
	return side, err
}

func (m *Move) publish(v vmstate.Migration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.seen = append(m.seen, v)
}

// Seen is every value that was published.
func (m *Move) Seen() []vmstate.Migration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]vmstate.Migration(nil), m.seen...)
}

// Records is what stands in the journal.
func (m *Move) Records() []flip.Record {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]flip.Record(nil), m.records...)
}

// journal keeps the records in memory.
type journal struct {
	m    *Move
	told func(flip.Record)
}

// Record keeps r.
func (j *journal) Record(r flip.Record) error {
	j.m.mu.Lock()
	j.m.records = append(j.m.records, r)
	j.m.mu.Unlock()
	if j.told != nil {
		j.told(r)
	}
	return nil
}
