package proc_test

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"qlive/internal/proc"
)

func TestParseMaps(t *testing.T) {
	for line, want := range map[string]proc.Mapping{
		"7f0e3c000000-7f0e7c000000 rw-s 00000000 00:01 2051                       /memfd:pc.ram (deleted)": {
			Start: 0x7f0e3c000000, End: 0x7f0e7c000000, Read: true, Write: true, Shared: true, DevMinor: 1, Inode: 2051, Path: "/memfd:pc.ram (deleted)"},
		"55d0-55e0 r-xp 00001000 fe:01 99 /usr/bin/a b\\012c": {
			Start: 0x55d0, End: 0x55e0, Read: true, Exec: true, Offset: 0x1000, DevMajor: 0xfe, DevMinor: 1, Inode: 99, Path: "/usr/bin/a b\\012c"},
		"ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]": {
			Start: 0xffffffffff600000, End: 0xffffffffff601000, Exec: true, Path: "[vsyscall]"},
		"7f00-7f01 rw-p 00000000 00:00 0 ": {Start: 0x7f00, End: 0x7f01, Read: true, Write: true},
	} {
		got, err := proc.ParseMaps(strings.NewReader(line + "\n"))
		if err != nil || len(got) != 1 || got[0] != want {
			t.Errorf("%q:\n got %+v\nwant %+v; %v", line, got, want, err)
		}
	}
	for _, line := range []string{"", "x", "1-2 rw-p 0 0:0", "2-1 rw-p 0 00:00 0", "1-2 rwp 0 00:00 0", "g-h rw-p 0 00:00 0", "1-2 rw-p 0 00.00 0", "1-2 rw-p 0 00:00 x",
		"1-11111111111111111 rw-p 0 0:0 0", "1-2 rw-p 0 1ffffffff:0 0"} {
		if got, err := proc.ParseMaps(strings.NewReader(line + "\n")); err == nil {
			t.Errorf("%q is %+v", line, got)
		}
	}
}

const stat = "4711 (qemu (x) system) S 1 4711 4711 0 -1 4194560 1 2 3 4 1500 250 0 0 20 0 5 0 987654 1000 10 18446744073709551615 1 1 0 0 0 0 0 0 0 0 0 0 17 0 0 0 0 0 0"

func TestParseStat(t *testing.T) {
	got, err := proc.ParseStat(stat + "\n")
	want := proc.Stat{PID: 4711, Name: "qemu (x) system", State: 'S', Parent: 1, User: 15 * time.Second, System: 2500 * time.Millisecond, Start: 987654}
	if err != nil || got != want || got.Ended() {
		t.Errorf("got %+v, want %+v; %v", got, want, err)
	}
	for _, text := range []string{"", "1", "1 (a) S", "x (a)" + strings.Repeat(" 1", 30), ")1(", "1 (a) SS" + strings.Repeat(" 1", 30), "1 (a) S x" + strings.Repeat(" 1", 30)} {
		if got, err := proc.ParseStat(text); err == nil {
			t.Errorf("%q is %+v", text, got)
		}
	}
}

func TestParseStatus(t *testing.T) {
	got, err := proc.ParseStatus("Name:\tqemu\nVmPTE:\t      12 kB\nVmSwap:\t       1 kB\nRssAnon:\t    1000 kB\nRssFile:\t 2 kB\nRssShmem:\t 3 kB\nHugetlbPages:\t 2048 kB\nThreads:\t7\nNew:\tthing\n")
	want := proc.Status{RSSAnon: 1000 << 10, RSSFile: 2 << 10, RSSShmem: 3 << 10, HugetlbPage: 2 << 20, PageTables: 12 << 10, Swap: 1 << 10, Threads: 7}
	if err != nil || got != want {
		t.Errorf("got %+v, want %+v; %v", got, want, err)
	}
	if got, err := proc.ParseStatus("RssAnon:\tmuch kB\n"); err == nil {
		t.Errorf("rubbish is %+v", got)
	}
}

func TestParseMeminfo(t *testing.T) {
	got, err := proc.ParseMeminfo("MemTotal:  100 kB\nMemFree:  50 kB\nMemAvailable: 60 kB\nAnonPages: 7 kB\nShmem: 3 kB\nSwapTotal: 0 kB\nHugePages_Total:      10\nHugePages_Free:        4\nHugePages_Rsvd:        1\nHugePages_Surp:        2\nHugepagesize:       2048 kB\nHugetlb:           20480 kB\n")
	want := proc.Meminfo{Total: 100 << 10, Free: 50 << 10, Available: 60 << 10, Anon: 7 << 10, Shmem: 3 << 10, HugePages: 10, HugePagesFree: 4,
		HugePagesReserved: 1, HugePagesSurplus: 2, HugePageBytes: 2 << 20, HugetlbBytes: 20 << 20}
	if err != nil || got != want {
		t.Errorf("got %+v, want %+v; %v", got, want, err)
	}
}

func TestParseMounts(t *testing.T) {
	got, err := proc.ParseMounts(strings.NewReader(
		"36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 shared:2 - hugetlbfs none rw,pagesize=2M\n37 35 0:22 / /x rw - tmpfs  rw,size=1k\n"))
	want := []proc.Mount{
		{ID: 36, Parent: 35, DevMajor: 98, Root: "/mnt1", Point: "/mnt 2", Options: []string{"rw", "noatime"}, Type: "hugetlbfs", Source: "none", Super: []string{"rw", "pagesize=2M"}},
		{ID: 37, Parent: 35, DevMinor: 22, Root: "/", Point: "/x", Options: []string{"rw"}, Type: "tmpfs", Super: []string{"rw", "size=1k"}},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("got  %+v\nwant %+v; %v", got, want, err)
	}
	if v, ok := got[0].Option("pagesize"); !ok || v != "2M" {
		t.Errorf("pagesize is %q %v", v, ok)
	}
	if _, ok := got[0].Option("noatime"); !ok {
		t.Error("noatime is not there")
	}
	if v, ok := got[0].Option("mode"); ok {
		t.Errorf("mode is %q", v)
	}
	for _, line := range []string{"", "36 35 98:0 /a /b rw", "36 35 98 /a /b rw - x y z", "x 35 9:0 /a /b rw - x y z", "36 35 9:0 /a /b - x y z", "36 35 9:0 /a /b rw - x"} {
		if got, err := proc.ParseMounts(strings.NewReader(line + "\n")); err == nil {
			t.Errorf("%q is %+v", line, got)
		}
	}
}

func TestPools(t *testing.T) {
	dir := t.TempDir()
	for name, files := range map[string]map[string]string{
		"hugepages-1048576kB": {"nr_hugepages": "0", "free_hugepages": "0", "resv_hugepages": "0", "surplus_hugepages": "0", "nr_overcommit_hugepages": "0"},
		"hugepages-2048kB":    {"nr_hugepages": "10", "free_hugepages": "4", "resv_hugepages": "3", "surplus_hugepages": "1", "nr_overcommit_hugepages": "2"},
		"else":                {},
	} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
		for file, text := range files {
			if err := os.WriteFile(filepath.Join(dir, name, file), []byte(text+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	got, err := proc.ReadPoolsFrom(dir)
	want := []proc.Pool{{PageBytes: 2 << 20, Total: 10, Free: 4, Reserved: 3, Surplus: 1, Overcommit: 2}, {PageBytes: 1 << 30}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("got %+v, want %+v; %v", got, want, err)
	}
	if n := got[0].Available(); n != 1 {
		t.Errorf("%d pages available, want 1", n)
	}
	if none, err := proc.ReadPoolsFrom(filepath.Join(dir, "nothing")); err != nil || none != nil {
		t.Errorf("a kernel without huge pages: %v, %v", none, err)
	}
	if err := os.Remove(filepath.Join(dir, "hugepages-2048kB", "free_hugepages")); err != nil {
		t.Fatal(err)
	}
	if got, err := proc.ReadPoolsFrom(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a pool without numbers is %+v; %v", got, err)
	}
}

// TestHost reads this host's own files.
func TestHost(t *testing.T) {
	m, err := proc.ReadMeminfo()
	if err != nil || m.Total == 0 || m.Free > m.Total {
		t.Errorf("%+v; %v", m, err)
	}
	mounts, err := proc.ReadMounts()
	if err != nil || len(mounts) == 0 {
		t.Errorf("%d mounts; %v", len(mounts), err)
	}
	if _, err := proc.ReadPools(); err != nil {
		t.Error(err)
	}
	s, err := proc.ReadStat(os.Getpid())
	if err != nil || s.PID != os.Getpid() || s.Parent != os.Getppid() || s.Start == 0 || s.Ended() {
		t.Errorf("%+v; %v", s, err)
	}
	status, err := proc.ReadStatus(os.Getpid())
	if err != nil || status.RSSAnon == 0 || status.PageTables == 0 || status.Threads == 0 {
		t.Errorf("%+v; %v", status, err)
	}
}

// TestGone reads a process that has ended, before and after its parent has waited for it.
func TestGone(t *testing.T) {
	cmd := exec.Command("/bin/true")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := cmd.Process.Pid
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		s, err := proc.ReadStat(pid)
		if err != nil {
			t.Fatal(err)
		}
		if s.Ended() {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("it has not ended: %+v", s)
		}
	}
	if s, err := proc.ReadStatus(pid); err != nil || s.RSSAnon != 0 {
		t.Errorf("the memory of the dead: %+v, %v", s, err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if _, err := proc.ReadStat(pid); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a process that is gone: %v", err)
	}
	if _, err := proc.ReadStatus(pid); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a process that is gone: %v", err)
	}
	if _, err := proc.ReadMaps(pid); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a process that is gone: %v", err)
	}
	if _, err := proc.OpenPagemap(pid); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a process that is gone: %v", err)
	}
}

func FuzzParseMaps(f *testing.F) {
	f.Add("7f0e3c000000-7f0e7c000000 rw-s 00000000 00:01 2051 /memfd:pc.ram (deleted)\n")
	f.Add("7f00-7f01 rw-p 00000000 00:00 0\n")
	f.Fuzz(func(t *testing.T, text string) {
		maps, err := proc.ParseMaps(strings.NewReader(text))
		for _, m := range maps {
			if m.End < m.Start || err != nil {
				t.Errorf("%+v, %v", m, err)
			}
		}
	})
}

func FuzzParseStat(f *testing.F) {
	f.Add(stat)
	f.Fuzz(func(t *testing.T, text string) {
		if s, err := proc.ParseStat(text); err == nil && (s.State == 0 || s.User < 0 || s.System < 0) {
			t.Errorf("%q is %+v", text, s)
		}
	})
}

func FuzzParseValues(f *testing.F) {
	f.Add("RssAnon:\t 12 kB\nThreads: 3\n")
	f.Add("MemTotal: 18446744073709551615 kB\n")
	f.Fuzz(func(t *testing.T, text string) {
		if s, err := proc.ParseStatus(text); err != nil && s != (proc.Status{}) {
			t.Errorf("%+v beside %v", s, err)
		}
		if m, err := proc.ParseMeminfo(text); err != nil && m != (proc.Meminfo{}) {
			t.Errorf("%+v beside %v", m, err)
		}
	})
}

func FuzzParseMounts(f *testing.F) {
	f.Add("36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 - hugetlbfs none rw,pagesize=2M\n")
	f.Add("36 35 98:0 /mnt1 /mnt\\777 rw - a b c\n")
	f.Fuzz(func(t *testing.T, text string) {
		mounts, err := proc.ParseMounts(strings.NewReader(text))
		if err != nil && mounts != nil {
			t.Errorf("%+v beside %v", mounts, err)
		}
	})
}
