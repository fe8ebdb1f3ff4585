package proc_test

import (
	"os"
	"os/exec"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"qlive/internal/proc"
)

// TestSelf reads this very process, and finds in it what the test has put there.
func TestSelf(t *testing.T) {
	page := os.Getpagesize()
	fd, err := unix.MemfdCreate("probe", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	const pages = 64
	if err := unix.Ftruncate(fd, int64(pages*page)); err != nil {
		t.Fatal(err)
	}
	mem, err := unix.Mmap(fd, 0, pages*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(mem)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		t.Fatal(err)
	}
	start := uint64(uintptr(unsafe.Pointer(&mem[0])))
	maps, err := proc.ReadMaps(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, m := range maps {
		if m.Inode == st.Ino && m.Start == start {
			found = true
			if !m.Shared || !m.Write || m.Len() != uint64(pages*page) || m.Path != "/memfd:probe (deleted)" ||
				unix.Mkdev(m.DevMajor, m.DevMinor) != st.Dev {
				t.Errorf("mapping is %+v", m)
			}
		}
	}
	if !found {
		t.Fatalf("inode %d is not among %d mappings", st.Ino, len(maps))
	}
	mem[0], mem[3*page], mem[4*page], mem[63*page] = 1, 1, 1, 1
	all := proc.Range{Start: start, End: start + uint64(len(mem))}
	for name, open := range map[string]func(int) (*proc.Pagemap, error){"scan": proc.OpenPagemap, "read": proc.OpenSlowPagemap} {
		t.Run(name, func(t *testing.T) {
			p, err := open(os.Getpid())
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			got := map[uint64]bool{}
			err = p.Present(all, func(r proc.Range) {
				for at := r.Start; at < r.End; at += uint64(page) {
					got[(at-start)/uint64(page)] = true
				}
			})
			if err != nil {
				t.Fatal(err)
			}
			for i := range uint64(pages) {
				if want := i == 0 || i == 3 || i == 4 || i == 63; got[i] != want {
					t.Errorf("page %d present: %v, want %v", i, got[i], want)
				}
			}
			n, err := p.PresentBytes(all)
			if err != nil || n != uint64(4*page) {
				t.Errorf("%d bytes present, want %d; %v", n, 4*page, err)
			}
		})
	}
}

// TestManyRegions has more stretches than one call of the kernel gives.
func TestManyRegions(t *testing.T) {
	page := os.Getpagesize()
	const pages = 4096
	mem, err := unix.Mmap(-1, 0, pages*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(mem)
	for i := 0; i < pages; i += 2 {
		mem[i*page] = 1
	}
	start := uint64(uintptr(unsafe.Pointer(&mem[0])))
	for name, open := range map[string]func(int) (*proc.Pagemap, error){"scan": proc.OpenPagemap, "read": proc.OpenSlowPagemap} {
		p, err := open(os.Getpid())
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		n, err := p.PresentBytes(proc.Range{Start: start, End: start + uint64(len(mem))})
		if err != nil || n != uint64(pages/2*page) {
			t.Errorf("%s: %d bytes present, want %d; %v", name, n, pages/2*page, err)
		}
	}
}

// TestPagemapOfTheDead must not pass for a process without pages, nor for another process.
func TestPagemapOfTheDead(t *testing.T) {
	for name, open := range map[string]func(int) (*proc.Pagemap, error){"scan": proc.OpenPagemap, "read": proc.OpenSlowPagemap} {
		cmd := exec.Command("/bin/sleep", "1000")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		maps, err := proc.ReadMaps(cmd.Process.Pid)
		if err != nil || len(maps) == 0 {
			t.Fatal(maps, err)
		}
		p, err := open(cmd.Process.Pid)
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err == nil {
			t.Fatal("it was not killed")
		}
		if n, err := p.PresentBytes(proc.Range{Start: maps[0].Start, End: maps[0].End}); err == nil {
			t.Errorf("%s: the dead has %d bytes", name, n)
		}
	}
}
