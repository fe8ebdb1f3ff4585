package main

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"syscall"
	"time"

	"qlive/integration/guest/wire"
)

// guest is the test guest.
type guest struct {
	params   params
	console  *console
	memory   *memory
	requests chan string   // tags of verifications asked for
	rate     atomic.Uint64 // pages to rewrite per second
}

func main() {
	// Each of our goroutines has a processor of Go's scheduler to itself, whatever the vCPUs.
	runtime.GOMAXPROCS(8)
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(64 << 20)
	err := run(syscall.Stdout)
	// Process 1 must not end: the kernel panics, which is what should be seen.
	_, _ = os.Stdout.Write(wire.Text(wire.KindErr, err.Error()))
	os.Exit(1)
}

// run is the guest's life on the console fd. It returns only what ended it.
func run(fd int) error {
	if err := mountAll(); err != nil {
		return err
	}
	if err := rawConsole(fd); err != nil {
		return err
	}
	// Whatever the firmware or a boot that was cut short left on the line ends here.
	if _, err := syscall.Write(fd, []byte{'\n'}); err != nil {
		return fmt.Errorf("cannot write to the console: %w", err)
	}
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return fmt.Errorf("cannot read the kernel's command line: %w", err)
	}
	g := &guest{console: newConsole(fd, newClock()), requests: make(chan string, 16)}
	if g.params, err = readParams(string(cmdline)); err != nil {
		return err
	}
	if err := loadModules("/modules"); err != nil {
		return err
	}
	if err := bringUp(); err != nil {
		return err
	}
	if err := roomFor(g.params.fillMiB); err != nil {
		return err
	}
	seed, err := random()
	if err != nil {
		return err
	}
	if g.memory, err = newMemory(seed, g.params.fillMiB, g.params.dirtyMiB); err != nil {
		return err
	}
	g.rate.Store(g.params.dirtyPPS)
	return g.live()
}

// live says that the guest is up (before its first beat), starts its parts and returns the first error of any.
func (g *guest) live() error {
	if err := g.console.write(g.up().Append(nil)); err != nil {
		return err
	}
	failed := make(chan error)
	start := func(part func() error) { go func() { failed <- part() }() }
	start(func() error { return g.console.beat(g.params.beat) })
	start(g.commands)
	start(g.work)
	return <-failed
}

// up describes this boot.
func (g *guest) up() wire.Up {
	m := g.memory
	return wire.Up{Boot: m.seed, Pages: uint64(len(m.pages)), DirtyPages: uint64(len(m.gens)), CPUs: uint64(runtime.NumCPU()),
		BeatMicros: uint64(g.params.beat.Microseconds()), MonoMicros: uint64(g.console.clock.now() / 1000),
		WallMicros: uint64(time.Now().UnixMicro())}
}

// work fills the memory, then rewrites and verifies it.
func (g *guest) work() error {
	if err := ownThread(-1, false); err != nil {
		return err
	}
	began := g.console.clock.now()
	sum := g.memory.fill()
	g.console.say(wire.Fill{Pages: uint64(len(g.memory.pages)), Sum: sum, TookMicros: g.since(began)}.Append(nil))
	failed := make(chan error)
	go func() { failed <- g.rewrite() }()
	go func() { failed <- g.verify() }()
	return <-failed
}

// rewrite keeps rewriting the part of memory that is for it, on the last vCPU.
func (g *guest) rewrite() error {
	if err := ownThread(-1, false); err != nil {
		return err
	}
	const tick = 4 * time.Millisecond
	owed := uint64(0) // pages times ticks per second, not yet rewritten
	c := g.console.clock
	for next := c.now(); ; {
		next = max(next+int64(tick), c.now())
		c.sleepUntil(next)
		owed += g.rate.Load()
		n := owed / uint64(time.Second/tick)
		owed -= n * uint64(time.Second/tick)
		g.memory.dirty(int(n))
	}
}

// verify verifies all memory: periodically, and at once when asked to. A periodic verification gives
// way to one that is asked for.
func (g *guest) verify() error {
	if err := ownThread(0, false); err != nil {
		return err
	}
	for {
		tag := "p"
		if g.params.verify > 0 {
			select {
			case tag = <-g.requests:
			case <-time.After(g.params.verify):
			}
		} else {
			tag = <-g.requests
		}
		g.verifyOnce(tag)
	}
}

// verifyOnce does one verification and says its result.
func (g *guest) verifyOnce(tag string) {
	began := g.console.clock.now()
	res, bad, done := g.memory.verify(func() bool { return tag == "p" && len(g.requests) > 0 })
	if !done {
		return
	}
	for _, b := range bad {
		g.console.say(b.Append(nil))
	}
	res.Tag, res.Gen, res.Seq = tag, g.memory.written.Load(), g.console.seq.Load()
	res.TookMicros, res.Micros = g.since(began), uint64(g.console.clock.now()/1000)
	g.console.say(res.Append(nil))
}

// since returns the µs since a reading of the clock.
func (g *guest) since(began int64) uint64 { return uint64(g.console.clock.now()-began) / 1000 }
