package cgroup_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"qlive/internal/cgroup"
	"qlive/vmstate"
)

// put writes files below dir, folders with them.
func put(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func get(t *testing.T, path ...string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// hierarchy is a folder that looks like cgroup v2 with a cgroup qlive/vm1 in it, as the kernel would make it.
func hierarchy(t *testing.T, controllers string) string {
	t.Helper()
	dir := t.TempDir()
	put(t, dir, map[string]string{
		"cgroup.controllers": controllers, "cgroup.subtree_control": "",
		"qlive/cgroup.controllers": controllers, "qlive/cgroup.subtree_control": "",
		"qlive/vm1/cgroup.procs": "",
	})
	for controller, files := range map[string][]string{"memory": {"memory.max", "memory.swap.max"}, "cpu": {"cpu.max"}, "pids": {"pids.max"}} {
		if strings.Contains(controllers, controller) {
			for _, f := range files {
				put(t, dir, map[string]string{"qlive/vm1/" + f: "max"})
			}
		}
	}
	return dir
}

func open(t *testing.T, mount string) *cgroup.Parent {
	t.Helper()
	p, err := cgroup.Open(mount, "qlive")
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestLimits(t *testing.T) {
	const all = "cpuset cpu io memory pids\n"
	for name, tt := range map[string]struct {
		limits vmstate.Limits
		want   map[string]string
	}{
		"none":      {vmstate.Limits{}, map[string]string{"memory.max": "max", "cpu.max": "max", "pids.max": "max"}},
		"memory":    {vmstate.Limits{MemoryBytes: 1 << 30}, map[string]string{"memory.max": "1073741824", "memory.swap.max": "0", "pids.max": "max"}},
		"cpu":       {vmstate.Limits{CPUPercent: 150}, map[string]string{"cpu.max": "150000 100000", "memory.max": "max"}},
		"processes": {vmstate.Limits{Processes: 64}, map[string]string{"pids.max": "64"}},
	} {
		t.Run(name, func(t *testing.T) {
			mount := hierarchy(t, all)
			p := open(t, mount)
			if m := p.Missing(); len(m) != 0 {
				t.Errorf("missing: %v", m)
			}
			g, err := p.Make("vm1", tt.limits)
			if err != nil {
				t.Fatal(err)
			}
			defer g.Close()
			for file, want := range tt.want {
				if got := get(t, g.Path(), file); !strings.HasPrefix(got, want) {
					t.Errorf("%s is %q, want %q", file, got, want)
				}
			}
		})
	}
}

// TestWithout: where a controller is missing, what does not need it works, and what does is refused by name.
func TestWithout(t *testing.T) {
	p := open(t, hierarchy(t, "hugetlb pids\n"))
	if m := strings.Join(p.Missing(), "; "); !strings.Contains(m, "memory: ") || !strings.Contains(m, "hugetlb pids") || strings.Contains(m, "; pids") {
		t.Errorf("missing: %s", m)
	}
	g, err := p.Make("vm1", vmstate.Limits{Processes: 5})
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	for name, l := range map[string]vmstate.Limits{"memory": {MemoryBytes: 1}, "cpu": {CPUPercent: 1}} {
		if _, err := p.Make("vm1", l); vmstate.KindOf(err) != vmstate.Unsupported || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRefused(t *testing.T) {
	mount := hierarchy(t, "pids\n")
	p := open(t, mount)
	put(t, mount, map[string]string{"qlive/vm1/cgroup.procs": "12\n13\n"})
	if _, err := p.Make("vm1", vmstate.Limits{}); vmstate.KindOf(err) != vmstate.Conflict || !strings.Contains(err.Error(), "12 13") {
		t.Errorf("a cgroup that somebody is in: %v", err)
	}
	if _, err := cgroup.Find(filepath.Join(mount, "qlive/vm2")); vmstate.KindOf(err) != vmstate.NotFound {
		t.Errorf("none: %v", err)
	}
	if _, err := cgroup.Open(filepath.Join(mount, "cgroup.controllers"), "qlive"); vmstate.KindOf(err) != vmstate.Host {
		t.Errorf("no folder: %v", err)
	}
}

func TestUsage(t *testing.T) {
	mount := hierarchy(t, "memory pids\n")
	g, err := open(t, mount).Make("vm1", vmstate.Limits{MemoryBytes: 1000})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	put(t, g.Path(), map[string]string{
		"memory.current": "700\n", "memory.max": "1000\n", "pids.current": "7\n", "pids.max": "max\n",
		"memory.stat": "anon 500\nfile 200\ninactive_file 60\nactive_file 40\n", "memory.events": "low 0\noom 3\noom_kill 2\n",
	})
	u, err := g.Usage()
	want := cgroup.Usage{MemoryBytes: 700, MemoryLimit: 1000, ReclaimableBytes: 100, Processes: 7, OOMKills: 2}
	if err != nil || u != want {
		t.Errorf("%+v, %v; want %+v", u, err, want)
	}
	if free, limited := u.FreeMemory(); free != 400 || !limited {
		t.Errorf("%d, %t", free, limited)
	}
	for _, over := range []cgroup.Usage{{MemoryBytes: 2000, MemoryLimit: 1000}, {MemoryBytes: 1000, MemoryLimit: 1000, ReclaimableBytes: 0}} {
		if free, limited := over.FreeMemory(); free != 0 || !limited {
			t.Errorf("%+v: %d, %t", over, free, limited)
		}
	}
	if free, limited := (cgroup.Usage{MemoryBytes: 5}).FreeMemory(); free != 0 || limited {
		t.Errorf("without a limit: %d, %t", free, limited)
	}
}

func FuzzUsage(f *testing.F) {
	f.Add("700\n", "anon 1\ninactive_file 2\n", "oom_kill 1\n")
	f.Add("max", "inactive_file", "oom_kill x")
	f.Add("-1", "inactive_file 18446744073709551615\nactive_file 5\n", "")
	dir := f.TempDir() // of this worker, which takes one input after the other
	f.Fuzz(func(t *testing.T, current, stat, events string) {
		put(t, dir, map[string]string{"memory.current": current, "memory.max": "100", "memory.stat": stat, "memory.events": events})
		g, err := cgroup.Find(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer g.Close()
		u, err := g.Usage()
		if free, _ := u.FreeMemory(); err == nil && free > 100 {
			t.Errorf("%d bytes of 100 are free: %+v", free, u)
		}
	})
}

// inside is this program as a process that is born in a cgroup and does what the environment variable says.
func inside(g *cgroup.Group, what string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), what+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(g.Folder().Fd())}
	return cmd
}

// kept sets every limit, and lets a process run into that of memory.
func kept(t *testing.T, p *cgroup.Parent, g *cgroup.Group) {
	t.Helper()
	same, err := p.Make("vm1", vmstate.Limits{MemoryBytes: 32 << 20, CPUPercent: 150, Processes: 64})
	if err != nil {
		t.Fatal(err)
	}
	defer same.Close()
	if got := get(t, g.Path(), "cpu.max"); got != "150000 100000\n" {
		t.Errorf("cpu.max is %q", got)
	}
	before, err := g.Usage()
	if err != nil || before.MemoryLimit != 32<<20 || before.ProcessLimit != 64 {
		t.Errorf("%+v, %v", before, err)
	}
	err = inside(g, eat).Run()
	after, usageErr := g.Usage()
	if err == nil || err.Error() != "signal: killed" || usageErr != nil || after.OOMKills != before.OOMKills+1 {
		t.Errorf("one that takes more than there is: %v; %+v, %v", err, after, usageErr)
	}
}

// TestKernel makes a cgroup where the kernel does, with what this host lets one do.
func TestKernel(t *testing.T) {
	mount, err := cgroup.Mount()
	if err != nil {
		mount = t.TempDir()
		mountV2(t, mount)
	}
	name := "qlive-test-" + filepath.Base(t.TempDir()) + filepath.Base(t.Name())
	p, err := cgroup.Open(mount, name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Remove(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(filepath.Join(mount, name)); !os.IsNotExist(err) {
			t.Errorf("it is still there: %v", err)
		}
	})
	t.Logf("at %s; missing: %v", mount, p.Missing())
	g, err := p.Make("vm1", vmstate.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if u, err := g.Usage(); err != nil {
		t.Errorf("%+v, %v", u, err)
	}
	born := inside(g, show)
	if text, err := born.CombinedOutput(); err != nil || !strings.Contains(string(text), "::/"+name+"/vm1\n") {
		t.Errorf("the process is in %q, %v", text, err)
	}
	if len(p.Missing()) == 0 {
		kept(t, p, g)
	}
	if err := p.Remove(); err != nil {
		t.Errorf("one that has a VM's in it: %v", err)
	}
	if _, err := os.Stat(g.Path()); err != nil {
		t.Fatal(err)
	}
	if err := g.Remove(); err != nil {
		t.Fatal(err)
	}
}
