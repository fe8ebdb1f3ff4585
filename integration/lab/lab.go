// Package lab is where a whole qlive is tried on real guests: a daemon of its own, with its own run directory, socket and
// mount, a client that talks to it over REST as anyone would, and guests that tell the truth about what happens to them.
//
// It imports testing: it is for tests.
package lab

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"qlive/daemon"
	"qlive/flip"
	"qlive/integration/env"
	"qlive/integration/guest"
	"qlive/restapi/client"
	"qlive/vmstate"
)

// Limit bounds every wait of a test, generously: machines are shared, and TCG is slow under the race detector.
const Limit = 60 * time.Second

// Lab is a daemon and what is needed to use it.
type Lab struct {
	t      testing.TB
	Env    env.Env
	Dir    string // of everything that the daemon makes
	Mount  string
	Socket string
	Client *client.Client
	Initrd string
	runDir string                                 // empty: below Dir
	follow func(vm string) (io.ReadCloser, error) // a guest's console
}

// RunDir is the daemon's run directory.
func (l *Lab) RunDir() string { return or(l.runDir, filepath.Join(l.Dir, "run")) }

// Options of a lab.
type Options struct {
	Failpoints   flip.Failpoints
	NoTree       bool
	RunDir       string // of the daemon, and StateDir; in the lab's own folder if empty
	StateDir     string
	Allowed      []string
	MonitorLimit time.Duration // as the daemon's
	ContLimit    time.Duration // as the daemon's
	ReadFiles    bool          // what guests say is read from their consoles' files: sooner than over REST
	// Configure changes the daemon's configuration; nil changes nothing.
	Configure func(*daemon.Config)
}

// newLab is a lab without a daemon.
func newLab(t testing.TB) *Lab {
	t.Helper()
	e, err := env.Locate()
	if err != nil {
		t.Fatal(err)
	}
	initrd, err := guest.Build(t.Context(), e.Cache)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "qlive-lab-")
	if err != nil {
		t.Fatal(err)
	}
	return &Lab{t: t, Env: e, Dir: dir, Mount: filepath.Join(dir, "mnt"), Socket: filepath.Join(dir, "sock"), Initrd: initrd}
}

// New starts a daemon. It is ended, and what it started, when the test is over.
func New(t testing.TB, opts Options) *Lab {
	t.Helper()
	l := newLab(t)
	l.follow, l.runDir = l.followConsole, opts.RunDir
	if opts.ReadFiles {
		l.follow = l.followFiles
	}
	cfg := daemon.Config{
		Socket: l.Socket, Mount: l.Mount, RunDir: l.RunDir(), StateDir: or(opts.StateDir, filepath.Join(l.Dir, "state")), AllowedBinaries: opts.Allowed,
	}
	if opts.NoTree {
		cfg.Mount = "none"
	}
	if opts.Configure != nil {
		opts.Configure(&cfg)
	}
	if cfg.User != "" { // it passes through on its way to its sockets, as it would through /run/qlive
		if err := os.Chmod(l.Dir, 0o711); err != nil {
			t.Fatal(err)
		}
	}
	log := zerolog.New(zerolog.NewTestWriter(t)).Level(zerolog.WarnLevel)
	if testing.Verbose() {
		log = log.Level(zerolog.DebugLevel)
	}
	d := daemon.New(cfg, daemon.Options{Version: "test", Log: log, Failpoints: opts.Failpoints, MonitorLimit: opts.MonitorLimit, ContLimit: opts.ContLimit})
	if err := d.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- d.Serve(ctx) }()
	l.Client = client.New(l.Socket)
	t.Cleanup(func() {
		l.removeAll()
		l.Client.Close()
		cancel()
		if err := <-served; err != nil {
			t.Errorf("serving: %v", err)
		}
		end, done := context.WithTimeout(context.Background(), Limit)
		defer done()
		if err := d.Close(end); err != nil {
			t.Errorf("closing the daemon: %v", err)
		}
		if t.Failed() {
			l.showLogs()
		}
		if err := os.RemoveAll(l.Dir); err != nil {
			t.Errorf("removing the lab: %v", err)
		}
		l.nothingLeft()
	})
	l.Eventually("the daemon answers", func() error { return l.Client.Ready(t.Context()) })
	return l
}

func (l *Lab) removeAll() {
	ctx, cancel := context.WithTimeout(context.Background(), Limit)
	defer cancel()
	vms, err := l.Client.VMs(ctx)
	if err != nil {
		l.t.Errorf("listing the VMs at the end: %v", err)
	}
	for _, vm := range vms {
		if err := l.remove(ctx, vm); err != nil {
			l.t.Errorf("removing %s: %v", vm.Name, err)
		}
	}
}

// remove kills a VM, if need be after the handoff that a failed test has left under way.
func (l *Lab) remove(ctx context.Context, vm vmstate.VM) error {
	for {
		err := l.Client.RemoveVM(ctx, vm.Name, true)
		if vmstate.KindOf(err) != vmstate.Busy {
			return err
		}
		_, _ = l.Client.Cancel(ctx, vm.Migration) // refused while it switches, which ends by itself
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return err
		}
	}
}

// showLogs prints what is needed to understand a failure.
func (l *Lab) showLogs() {
	logs, _ := filepath.Glob(filepath.Join(l.RunDir(), "vms/*/*/qemu.log"))
	for _, path := range logs {
		text, _ := os.ReadFile(path)
		l.t.Logf("%s:\n%s", path, text)
	}
}

// Eventually waits until f returns nil, and fails the test with what it said last if it does not in time.
func (l *Lab) Eventually(what string, f func() error) {
	l.t.Helper()
	deadline := time.Now().Add(Limit)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			l.t.Fatalf("waited %s until %s: %v\n%s", Limit, what, err, l.condition())
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// Spec describes a guest.
type Spec struct {
	Name    string
	QEMU    string // version; the oldest if empty
	Machine string // pc-q35-7.2 if empty
	MiB     int    // 256 if 0
	CPUs    int    // 1 if 0
	Memory  vmstate.MemorySpec
	Guest   guest.Params
	Args    []string // more arguments of QEMU
	Line    []string // the line that they are added to, in place of the lab's own: machine, CPU, RAM, serial port
	NoRAM   bool     // Args say what RAM there is
	Paused  bool     // -S
	Bare    bool     // no kernel: the guest sits in its firmware
	Restart vmstate.RestartPolicy
}

// VM is a guest that a lab has started.
type VM struct {
	lab    *Lab
	Name   string
	stream io.ReadCloser
	*Truth
}

// Start starts a guest, and follows its console.
func (l *Lab) Start(s Spec) *VM {
	l.t.Helper()
	vm, err := l.TryStart(s)
	if err != nil {
		l.t.Fatalf("starting %s: %v", s.Name, err)
	}
	return vm
}

// TryStart is Start for guests that may be refused.
func (l *Lab) TryStart(s Spec) (*VM, error) {
	l.t.Helper()
	ctx := l.t.Context()
	spec := vmstate.VMSpec{Name: or(s.Name, "vm1"), Binary: l.Env.QEMU(or(s.QEMU, env.Installed)), Args: l.Args(s), Memory: s.Memory, Restart: s.Restart}
	if _, err := l.Client.StartVM(ctx, spec); err != nil {
		return nil, err
	}
	stream, err := l.follow(spec.Name)
	if err != nil {
		return nil, err
	}
	vm := &VM{lab: l, Name: spec.Name, stream: stream, Truth: newTruth()}
	done := make(chan struct{})
	go func() { defer close(done); vm.read(stream) }()
	l.t.Cleanup(func() { stream.Close(); <-done })
	return vm, nil
}

// followConsole follows a guest's console over REST.
func (l *Lab) followConsole(vm string) (io.ReadCloser, error) {
	return l.Client.Console(l.t.Context(), vm, client.Tail{Follow: true})
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// Args is the command line of a guest as its user would write it.
func (l *Lab) Args(s Spec) []string {
	args := []string{"-accel", "tcg", "-cpu", "qemu64", "-machine", or(s.Machine, "pc-q35-7.2"), "-smp", strconv.Itoa(max(s.CPUs, 1)),
		"-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio"}
	if s.Line != nil {
		args = slices.Clone(s.Line)
	} else if !s.NoRAM {
		args = append(args, "-m", strconv.Itoa(max(s.MiB, 256)))
	}
	if !s.Bare {
		args = append(args, "-kernel", l.Env.Kernel, "-initrd", l.Initrd, "-append", guest.Append(s.Guest))
	}
	if s.Paused {
		args = append(args, "-S")
	}
	return append(args, s.Args...)
}

// Boot starts a guest and waits until it beats.
func (l *Lab) Boot(s Spec) *VM {
	l.t.Helper()
	vm := l.Start(s)
	vm.AwaitBoots(1)
	vm.AwaitBeats(50)
	return vm
}

// AwaitBoots waits until the guest has come up n times and filled its memory.
func (v *VM) AwaitBoots(n int) {
	v.lab.t.Helper()
	v.lab.Eventually(fmt.Sprintf("%s has booted %d times", v.Name, n), func() error {
		r := v.Report()
		up := 0
		for _, b := range r.Boots {
			if b.Fill != nil {
				up++
			}
		}
		if up < n {
			return fmt.Errorf("%d boots, %d beats; last: %s", up, r.Beats, v.Last())
		}
		return nil
	})
}

// AwaitBeats waits for n more beats.
func (v *VM) AwaitBeats(n uint64) {
	v.lab.t.Helper()
	want := v.Report().Beats + n
	v.lab.Eventually(fmt.Sprintf("%s beats %d times more", v.Name, n), func() error {
		if r := v.Report(); r.Beats < want {
			return fmt.Errorf("%d of %d beats; last: %s", r.Beats, want, v.Last())
		}
		return nil
	})
}

// Type types a line on the guest's console.
func (v *VM) Type(line string) {
	v.lab.t.Helper()
	if err := v.lab.Client.Type(v.lab.t.Context(), v.Name, []byte(line+"\n")); err != nil {
		v.lab.t.Fatalf("typing %q: %v", line, err)
	}
}

// CheckMemory lets the guest verify all of its memory now, and fails the test if it finds a fault, or has missed, repeated or torn a beat.
func (v *VM) CheckMemory() {
	v.lab.t.Helper()
	before := v.Report().Mems
	v.Type("verify")
	v.lab.Eventually("the guest has verified its memory", func() error {
		if v.Report().Mems == before {
			return fmt.Errorf("no answer; last: %s", v.Last())
		}
		return nil
	})
	v.CheckTruth()
}

// CheckTruth fails the test if anything that the guest said so far is not as it should be.
func (v *VM) CheckTruth() {
	v.lab.t.Helper()
	if err := v.Report().Check(); err != nil {
		v.lab.t.Fatalf("%s: %v", v.Name, err)
	}
}

// Show is the VM as REST shows it.
func (v *VM) Show() vmstate.VM {
	v.lab.t.Helper()
	vm, err := v.lab.Client.VM(v.lab.t.Context(), v.Name)
	if err != nil {
		v.lab.t.Fatal(err)
	}
	return vm
}

// Migrate hands the guest over and returns how it ended.
func (v *VM) Migrate(spec vmstate.MigrationSpec) vmstate.Migration {
	v.lab.t.Helper()
	spec.VM = v.Name
	m, err := v.lab.Client.Migrate(v.lab.t.Context(), spec, "")
	if err != nil {
		v.lab.t.Fatalf("asking for a migration: %v", err)
	}
	return v.Wait(m.ID)
}

// Wait waits for the end of a migration.
func (v *VM) Wait(id string) vmstate.Migration {
	v.lab.t.Helper()
	m, err := v.lab.Client.Migration(v.lab.t.Context(), id, Limit)
	if err != nil {
		v.lab.t.Fatalf("waiting for migration %s: %v", id, err)
	}
	if !m.Phase.Ended() {
		v.lab.t.Fatalf("migration %s is still %s after %s", id, m.Phase, Limit)
	}
	return m
}

// HandOver hands the guest over to a version of QEMU, and fails the test unless that succeeds.
func (v *VM) HandOver(version string, way vmstate.Way) vmstate.Migration {
	v.lab.t.Helper()
	m := v.Migrate(vmstate.MigrationSpec{Binary: v.lab.Env.QEMU(version), Way: way, MaxPauseMS: 20_000}) // machines are busy
	if m.Phase != vmstate.Completed {
		v.lab.t.Fatalf("handing over to %s: %s: %+v\nlog: %+v", version, m.Phase, m.Error, m.Log)
	}
	return m
}

// Cat reads a file of the tree through cat(1)'s eyes: open, read to the end, close.
func (l *Lab) Cat(path ...string) string {
	l.t.Helper()
	text, err := os.ReadFile(filepath.Join(append([]string{l.Mount}, path...)...))
	if err != nil {
		l.t.Fatal(err)
	}
	return strings.TrimSuffix(string(text), "\n")
}
