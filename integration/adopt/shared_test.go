package adopt_test

import (
	"context"
	"fmt"
	"strconv"
	"testing"

	"qlive/integration/env"
	"qlive/integration/lab"
	"qlive/internal/qmp"
	"qlive/vmstate"
)

// Guests whose RAM others can map are handed over without copying, on the very memory that they had, whatever QEMU's own migration would
// have done with it; one of them goes on to a third QEMU.
func TestSharedRAM(t *testing.T) {
	l := lab.New(t, lab.Options{NoTree: true})
	file := ram(t, 256*mib)
	for _, tt := range []struct {
		name    string
		version string
		backend string
		backing vmstate.Backing
		ignored bool
		to, on  string
	}{
		{"file", env.Installed, "memory-backend-file,share=on,discard-data=on,mem-path=" + file, vmstate.File, true, env.Backport, env.Installed},
		{"memfd", env.Installed, "memory-backend-memfd", vmstate.Memfd, true, env.Newest, ""},
		{"anonymous", env.Backport, "memory-backend-ram,share=on", vmstate.Anonymous, false, env.Newest, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := start(t, l, tt.version, linux(l, "-m", "256", "-machine", "pc-q35-7.2,memory-backend=ram0", "-object", tt.backend+",id=ram0,size=256M", "-pidfile", "pid")...).up()
			s.awaitTruth(20)
			vm := s.adopt("vm1")
			defer func() { _ = l.Client.RemoveVM(context.WithoutCancel(t.Context()), "vm1", true) }() // it may be gone
			r := vm.Adoption.Regions[0]
			if vm.Adoption.Mode != vmstate.ModeShared || len(vm.Adoption.Regions) != 1 || r.Backing != tt.backing && tt.backing != vmstate.Anonymous || r.Ignored != tt.ignored || len(vm.Adoption.Obstacles) > 0 {
				t.Fatalf("the report is %+v", vm.Adoption)
			}
			inode := r.Inode
			if !tt.ignored {
				_, err := l.Client.Migrate(t.Context(), vmstate.MigrationSpec{VM: "vm1", Binary: l.Env.QEMU(tt.to), Way: vmstate.WayStopFirst}, "")
				refused(t, err, vmstate.Unsupported, "onto itself")
			}
			s.handOver(vmstate.MigrationSpec{VM: "vm1", Binary: l.Env.QEMU(tt.to)})
			<-s.ended // the source is gone
			s.awaitTruth(50)
			vm, err := l.Client.VM(t.Context(), "vm1")
			if err != nil {
				t.Fatal(err)
			}
			if vm.Adoption != nil || vm.Generation != 1 || len(vm.Regions) != 1 || vm.Regions[0].Inode != inode {
				t.Errorf("after the handoff: %+v", vm)
			}
			s.ask(func(ctx context.Context, c *qmp.Client) error { // the stranger's own monitor leads to the new QEMU
				pid, err := c.PeerPID()
				if err == nil && pid != vm.PID {
					err = fmt.Errorf("it is that of process %d, not %d", pid, vm.PID)
				}
				return err
			})
			if text := s.read("pid"); text != strconv.Itoa(vm.PID) {
				t.Errorf("the pidfile says %q, and the QEMU is process %d", text, vm.PID)
			}
			if tt.on != "" {
				s.handOver(vmstate.MigrationSpec{VM: "vm1", Binary: l.Env.QEMU(tt.on)})
				s.awaitTruth(50)
			}
			if err := l.Client.RemoveVM(t.Context(), "vm1", true); err != nil {
				t.Fatal(err)
			}
		})
	}
}
