package adopt_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"qlive/integration/env"
	"qlive/integration/lab"
	"qlive/vmstate"
)

// strike does something once, when the pages of a guest begin to come.
type strike struct{ do atomic.Pointer[func()] }

func (s *strike) Hit(_ context.Context, name string) error {
	if do := s.do.Load(); name == "flip.receive.before" && do != nil {
		(*do)()
	}
	return nil
}

// A guest whose source or target dies while its pages come is lost. The VM says so. A target that is left goes when a person says so.
func TestTorn(t *testing.T) {
	for _, who := range []string{"source", "target"} {
		t.Run(who, func(t *testing.T) {
			points := &strike{}
			l := lab.New(t, lab.Options{NoTree: true, Failpoints: points})
			s := start(t, l, env.Installed, firmware("-m", "512")...).up()
			s.adopt("vm1")
			target := 0
			do := func() {
				vm, err := l.Client.VM(t.Context(), "vm1")
				if target = vm.PID; err != nil || target == s.pid() {
					t.Errorf("the VM is %+v, %v", vm, err)
					return
				}
				pid := map[string]int{"source": s.pid(), "target": target}[who]
				if err := unix.Kill(pid, unix.SIGKILL); err != nil {
					t.Error(err)
				}
			}
			points.do.Store(&do)
			m := s.migrate(vmstate.MigrationSpec{VM: "vm1", Binary: l.Env.QEMU(env.Newest), Mode: vmstate.ModePostcopy})
			if m.Phase != vmstate.Failed || m.Error == nil || m.Error.Remedy == "" {
				t.Fatalf("it has %s: %+v; log %+v", m.Phase, m.Error, m.Log)
			}
			vm, err := l.Client.VM(t.Context(), "vm1")
			if err != nil || vm.Status != vmstate.Broken || vm.Error == nil {
				t.Errorf("the VM is %+v, %v", vm, err)
			}
			if _, err := l.Client.Resolve(t.Context(), "vm1", "source"); err == nil {
				t.Error("the guest was given back to a source that has only some of it")
			}
			if who == "source" { // else nothing is left
				if vm, err = l.Client.Resolve(t.Context(), "vm1", "discard"); err != nil || vm.PID != 0 {
					t.Errorf("after it was discarded: %+v, %v", vm, err)
				}
			}
			select {
			case <-s.ended:
			case <-time.After(lab.Limit):
				t.Fatal("the source is left")
			}
			if unix.Kill(target, 0) == nil {
				t.Errorf("the target, process %d, is left", target)
			}
		})
	}
}
