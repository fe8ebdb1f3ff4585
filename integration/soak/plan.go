package soak

import (
	"math/rand/v2"
	"time"

	"golang.org/x/sys/unix"

	"qlive/integration/env"
	"qlive/integration/guest"
	"qlive/integration/kills/stage"
	"qlive/vmstate"
)

// Epoch is what is drawn for one life of the daemon: one handoff is struck, others are left alone.
type Epoch struct {
	Number  int
	Restart unix.Signal    // how the daemon before ends, at rest
	Guest   int            // which one is struck
	Shapes  [2]stage.Shape // of the guests that are needed anew
	Strike  stage.Strike
	Struck  Handoff
	Company bool      // the other guest is handed over at the same time
	Quiet   []Handoff // afterwards
	Verify  bool      // both guests check all of their memory
	Retire  bool      // the guest that was struck makes room for another
}

// Handoff is one that is asked for.
type Handoff struct {
	Guest  int
	To     string // version
	Way    vmstate.Way
	Cancel bool // held, and cancelled
}

// versions hand every guest of ours to each other. 10.0.13 is not among them: from there a guest with virtio-net cannot go on to 11.1 (docs/guide.md).
func versions() []string { return []string{env.Installed, env.Backport, env.Newest} }

// source gives the same numbers for the same seed and epoch.
func source(seed uint64, epoch int) *rand.Rand { return rand.New(rand.NewPCG(seed, uint64(epoch))) }

// NewEpoch draws an epoch.
func NewEpoch(seed uint64, number int) Epoch {
	r := source(seed, number)
	e := Epoch{Number: number, Restart: pick(r, unix.SIGTERM, unix.SIGKILL), Guest: r.IntN(2)}
	for i := range e.Shapes {
		e.Shapes[i] = drawShape(r)
	}
	e.Struck = drawHandoff(r, e.Guest)
	e.Strike = drawStrike(r, e.Struck.Way)
	e.Company = e.Strike.Party == stage.Daemon && r.IntN(3) == 0
	for range r.IntN(8) {
		h := drawHandoff(r, r.IntN(2))
		h.Cancel = r.IntN(12) == 0
		e.Quiet = append(e.Quiet, h)
	}
	e.Verify = r.IntN(3) == 0
	e.Retire = r.IntN(20) == 0
	return e
}

func pick[T any](r *rand.Rand, from ...T) T { return from[r.IntN(len(from))] }

func drawShape(r *rand.Rand) stage.Shape {
	s := stage.Shape{
		QEMU: pick(r, versions()...), Machine: pick(r, "pc-q35-7.2", "pc-i440fx-7.2"), MiB: pick(r, 128, 192, 256, 384, 512), CPUs: 1 + r.IntN(2),
	}
	dirty := 1 + r.IntN(8)
	s.Load = guest.Params{FillMiB: 8 + r.IntN(s.MiB/8), DirtyMiB: dirty, DirtyPPS: pick(r, -1, 200, 1000, 4000), VerifySecs: -1}
	for _, device := range []string{"VGA", "virtio-rng-pci", "virtio-net-pci", "virtio-balloon-pci"} {
		if r.IntN(3) == 0 {
			s.Args = append(s.Args, "-device", device)
		}
	}
	return s
}

func drawHandoff(r *rand.Rand, guest int) Handoff {
	return Handoff{Guest: guest, To: pick(r, versions()...), Way: pick(r, vmstate.WayDeviceState, vmstate.WayDeviceState, vmstate.WayStopFirst, vmstate.WayLive)}
}

// drawStrike draws who is struck, how and where: three of four at a failpoint, which is where it may hurt.
func drawStrike(r *rand.Rand, way vmstate.Way) stage.Strike {
	for {
		k := stage.Strike{Party: pick(r, stage.Daemon, stage.Daemon, stage.Source, stage.Target, stage.Target), Signal: pick(r, unix.SIGKILL, unix.SIGKILL, unix.SIGSTOP)}
		if r.IntN(4) > 0 {
			k.Point = pick(r, stage.Course{Way: way}.Points()...)
		} else {
			k.After = time.Duration(r.IntN(300_000)) * time.Microsecond
		}
		k.GoesOn = k.Party == stage.Daemon && k.Signal == unix.SIGSTOP && r.IntN(2) == 0
		k.And = k.Party != stage.Daemon && r.IntN(4) == 0
		if k.Possible() {
			return k
		}
	}
}
