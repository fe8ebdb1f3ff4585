package foreign

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"qlive/vmstate"
)

func TestInspect(t *testing.T) {
	p, err := Inspect(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	if p.ID.PID != os.Getpid() || p.ID.Start == 0 || p.Binary != exe || !p.Unchanged() || p.Dir != dir || !slices.Equal(p.Args, os.Args[1:]) {
		t.Errorf("the process is %+v", p)
	}
	if p.UID != os.Geteuid() || p.GID != os.Getegid() || len(p.Apart) > 0 || len(p.Affinity) == 0 || !slices.Contains(p.Env, "HOME="+os.Getenv("HOME")) || p.Memory.RSSAnon == 0 {
		t.Errorf("its surroundings are %+v", p)
	}
	if owner, err := p.Owner(); err != nil || (owner == nil) != (p.UID == 0) {
		t.Errorf("its owner is %+v, %v", owner, err)
	}
	if _, err := Inspect(1 << 30); vmstate.KindOf(err) != vmstate.NotFound {
		t.Errorf("a process that is not there: %v", err)
	}
	if _, err := Inspect(2); vmstate.KindOf(err) == "" { // kthreadd, or nothing
		t.Error("a thread of the kernel can be adopted")
	}
}

func TestParseOwner(t *testing.T) {
	uid, gid, groups, err := parseOwner("Name:\tx\nUid:\t0\t64055\t0\t0\nGid:\t1\t994\t1\t1\nGroups:\t36 994 \n")
	if err != nil || uid != 64055 || gid != 994 || !slices.Equal(groups, []uint32{36, 994}) {
		t.Errorf("%d %d %v %v", uid, gid, groups, err)
	}
	for _, text := range []string{"", "Uid:\t0\n", "Uid:\tx\ty\n", "Uid:\t0\t1\n", "Uid:\t0\t1\nGid:\t0\t-1\n", "Uid: 0 1\nGid: 0 1\nGroups: x\n"} {
		if _, _, _, err := parseOwner(text); err == nil {
			t.Errorf("%q is understood", text)
		}
	}
}

func TestParseCgroup(t *testing.T) {
	for text, want := range map[string]string{
		"0::/machine.slice/vm1.scope\n":     "/machine.slice/vm1.scope",
		"12:cpu:/a\n0::/b\n":                "/b",
		"12:cpu:/a\n1:name=systemd:/user\n": "",
		"":                                  "",
	} {
		if got := parseCgroup(text); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}

func FuzzParseStatusOfOwner(f *testing.F) {
	f.Add("Uid:\t0\t1\t2\t3\nGid:\t0\t1\t2\t3\nGroups:\t1 2\n", "0::/a\n")
	f.Add("Uid:\t4294967296\n", "0::")
	f.Fuzz(func(t *testing.T, status, cgroup string) {
		if uid, gid, _, err := parseOwner(status); err == nil && (uid < 0 || gid < 0) {
			t.Errorf("%q is of %d %d", status, uid, gid)
		}
		if path := parseCgroup(cgroup); !strings.Contains(cgroup, path) {
			t.Errorf("%q is not in %q", path, cgroup)
		}
	})
}

func TestRanges(t *testing.T) {
	for want, numbers := range map[string][]int{"": nil, "3": {3}, "0-1": {0, 1}, "0-2,5,7-8": {0, 1, 2, 5, 7, 8}} {
		if got := Ranges(numbers); got != want {
			t.Errorf("%v: got %q, want %q", numbers, got, want)
		}
	}
}

func TestDescriptors(t *testing.T) {
	dir := t.TempDir()
	image := filepath.Join(dir, "disk")
	f, err := os.Create(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	local, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer local.Close()
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	c, err := net.Dial("unix", local.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	p, err := Inspect(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	list, err := p.Descriptors([]string{image})
	if err != nil {
		t.Fatal(err)
	}
	has := func(kind vmstate.HeldKind, name string) bool {
		return slices.ContainsFunc(list, func(d vmstate.HeldDescriptor) bool { return d.Kind == kind && d.Name == name })
	}
	if !has(vmstate.HeldImage, image) || !has(vmstate.HeldListening, local.Addr().String()) || !has(vmstate.HeldListening, tcp.Addr().String()) || len(list) != 3 {
		t.Errorf("the descriptors are %+v", list)
	}
}

// A tap is known by its interface, whoever has it.
func TestDescriptorOfTap(t *testing.T) {
	tun, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer tun.Close()
	req, err := unix.NewIfreq("qlivetest0")
	if err != nil {
		t.Fatal(err)
	}
	req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(int(tun.Fd()), unix.TUNSETIFF, req); err != nil {
		t.Fatal(err)
	}
	p, err := Inspect(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	list, err := p.Descriptors(nil)
	if err != nil {
		t.Fatal(err)
	}
	want := vmstate.HeldDescriptor{FD: int(tun.Fd()), Kind: vmstate.HeldTap, Name: "qlivetest0"}
	if !slices.Contains(list, want) {
		t.Errorf("the tap is not among %+v", list)
	}
}
