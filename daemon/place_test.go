package daemon

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"qlive/flip/memory"
	"qlive/internal/cgroup"
	"qlive/internal/qemu"
	"qlive/vmstate"
)

// fakeGroup is a cgroup as the kernel would show it, with what it uses and may use.
func fakeGroup(t *testing.T, current, limit string) *cgroup.Group {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"memory.current": current, "memory.max": limit, "memory.stat": "inactive_file 4096\n"} {
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(text+"\n"), 0o600))
	}
	g, err := cgroup.Find(dir)
	must(t, err)
	t.Cleanup(func() { must(t, g.Close()) })
	return g
}

func TestRoomForASecondQEMU(t *testing.T) {
	binary, err := qemu.Admit("/bin/sleep", nil)
	must(t, err)
	source, err := qemu.Start(qemu.Command{Binary: binary, Args: []string{"1000"}, Log: filepath.Join(t.TempDir(), "log")})
	must(t, err)
	t.Cleanup(func() {
		must(t, source.Kill())
		<-source.Done()
		must(t, source.Release())
	})
	for name, tt := range map[string]struct {
		current, limit string
		refused        bool
	}{
		"no limit": {"1073741824", "max", false},
		"room":     {"1048576", "1073741824", false},
		"none":     {"1073741824", "1073741824", true},
	} {
		err := place{group: fakeGroup(t, tt.current, tt.limit)}.room("vm1", source)
		switch {
		case !tt.refused && err != nil:
			t.Errorf("%s: %v", name, err)
		case tt.refused && (vmstate.KindOf(err) != vmstate.Exhausted || !strings.Contains(err.Error(), "of the 1024 MiB")):
			t.Errorf("%s: %v", name, err)
		}
	}
	must(t, place{}.room("vm1", source))
}

func TestRoomForRAM(t *testing.T) {
	ordinary, huge := memory.Want{Name: "pc.ram", SizeBytes: 256 << 20}, memory.Want{Name: "m", SizeBytes: 1 << 30, PageBytes: 2 << 20}
	for name, tt := range map[string]struct {
		limit   uint64
		backing vmstate.Backing
		ram     []memory.Want
		refused bool
	}{
		"no limit":        {0, "", []memory.Want{ordinary}, false},
		"room":            {512 << 20, "", []memory.Want{ordinary}, false},
		"none":            {256 << 20, "", []memory.Want{ordinary}, true},
		"huge pages":      {64 << 20, vmstate.Hugetlb, []memory.Want{ordinary}, false},
		"some are huge":   {300 << 20, "", []memory.Want{ordinary, huge}, false},
		"two are not":     {300 << 20, vmstate.Memfd, []memory.Want{ordinary, ordinary}, true},
		"no RAM to count": {1, "", nil, false},
	} {
		spec := vmstate.VMSpec{Name: "vm1", Memory: vmstate.MemorySpec{Backing: tt.backing}, Limits: vmstate.Limits{MemoryBytes: tt.limit}}
		err := roomForRAM(spec, tt.ram)
		if (err != nil) != tt.refused || err != nil && (vmstate.KindOf(err) != vmstate.Invalid || !strings.Contains(err.Error(), "its RAM alone is")) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCgroupNames(t *testing.T) {
	for name, tt := range map[string]struct {
		c    Config
		want string
	}{
		"the default":       {DefaultConfig(), "qlive"},
		"another daemon":    {Config{Cgroup: "auto", RunDir: "/run/two/"}, "qlive-run-two"},
		"as one says":       {Config{Cgroup: "machines/qlive", RunDir: "/run/two"}, "machines/qlive"},
		"none":              {Config{Cgroup: "none"}, ""},
		"nothing is said":   {Config{}, ""},
		"as said elsewhere": {Config{Cgroup: "x", RunDir: "/run/qlive"}, "x"},
	} {
		if got := tt.c.cgroup(); got != tt.want {
			t.Errorf("%s: %q", name, got)
		}
	}
	c := testConfig(t)
	for _, bad := range []string{"/qlive", "../qlive", "a/../../b"} {
		c.Cgroup = bad
		if err := c.Check(); vmstate.KindOf(err) != vmstate.Invalid {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// A daemon with a user that does not exist does not start: no guest is to run as somebody else than was meant.
func TestUserThatIsNot(t *testing.T) {
	c := testConfig(t)
	c.User = "no-such-user"
	if err := New(c, Options{}).Open(t.Context()); vmstate.KindOf(err) != vmstate.Invalid || !strings.Contains(err.Error(), "no-such-user") {
		t.Error(err)
	}
}

func TestLimitsThatAreNone(t *testing.T) {
	for _, l := range []vmstate.Limits{{CPUPercent: -1}, {Processes: -1}, {OOMScoreAdj: 1001}, {OOMScoreAdj: -1001}} {
		if err := l.Check(); vmstate.KindOf(err) != vmstate.Invalid {
			t.Errorf("%+v: %v", l, err)
		}
	}
	must(t, vmstate.Limits{MemoryBytes: 1, CPUPercent: 1, Processes: 1, OOMScoreAdj: -1000}.Check())
}
