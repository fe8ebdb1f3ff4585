package precopy_test

import (
	"strings"
	"testing"

	"qlive/integration/env"
	"qlive/integration/lab"
	"qlive/vmstate"
)

// RAM of which some is in private huge pages and some shared is copied, into huge pages, a paused guest stays paused, and RAM that is qlive's own is copied only if it becomes
// something else.
func backings(t *testing.T) {
	const size = 16 * mib // of each of the two
	mount := lab.HugePages(t, 3*size/(2*mib))
	l := lab.New(t, lab.Options{NoTree: true})
	s := start(t, l, env.Stable, "-m", "32", "-smp", "2", "-numa", "node,memdev=a,cpus=0", "-numa", "node,memdev=b,cpus=1",
		"-object", "memory-backend-file,id=a,size=16M,mem-path="+mount, "-object", "memory-backend-memfd,id=b,size=16M")
	if a := s.adopt(); a.Mode != vmstate.ModePrecopy || len(a.Regions) != 2 || a.Regions[0].PageBytes != 2*mib || a.Regions[0].Mode != vmstate.ModePrecopy || a.Regions[1].Mode != vmstate.ModeShared {
		t.Errorf("the report is %+v", a)
	}
	if vm, err := l.Client.Pause(t.Context(), "vm1"); err != nil || vm.Status != vmstate.Paused {
		t.Errorf("pausing: %+v, %v", vm, err)
	}
	into := func(backing vmstate.Backing) func(*vmstate.MigrationSpec) {
		return func(spec *vmstate.MigrationSpec) { spec.Memory = &vmstate.MemorySpec{Backing: backing} }
	}
	for i, to := range []struct {
		version string
		backing vmstate.Backing
		status  vmstate.Status
	}{{env.Backport, vmstate.Hugetlb, vmstate.Paused}, {env.Stable, vmstate.Memfd, vmstate.Running}} {
		if i > 0 {
			if _, err := l.Client.Resume(t.Context(), "vm1"); err != nil {
				t.Error(err)
			}
		}
		ends(t, l, ask(t, l, to.version, into(to.backing)).ID, vmstate.Completed, "")
		vm, err := l.Client.VM(t.Context(), "vm1")
		if err != nil || vm.Status != to.status || len(vm.Regions) != 2 || vm.Regions[0].Backing != to.backing || vm.Regions[1].Backing != to.backing || vm.Regions[1].SizeBytes != size {
			t.Errorf("now it is %+v, %v", vm, err)
		}
	}
	for name, tt := range map[string]struct {
		change func(*vmstate.MigrationSpec)
		kind   vmstate.Kind
		says   string
	}{
		"for nothing":           {func(*vmstate.MigrationSpec) {}, vmstate.Unsupported, "copied for nothing"},
		"into what it is":       {into(vmstate.Memfd), vmstate.Invalid, "already"},
		"by a way of one's own": {func(s *vmstate.MigrationSpec) { s.Way = vmstate.WayStopFirst }, vmstate.Invalid, "its own way"},
	} {
		spec := vmstate.MigrationSpec{VM: "vm1", Binary: l.Env.QEMU(env.Backport), Mode: vmstate.ModePrecopy}
		tt.change(&spec)
		_, err := l.Client.Migrate(t.Context(), spec, "")
		p := vmstate.ProblemOf(err)
		if err == nil || p.Kind() != tt.kind || !strings.Contains(p.Detail, tt.says) || p.Remedy == "" {
			t.Errorf("%s: %+v", name, p)
		}
	}
}
