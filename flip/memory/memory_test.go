package memory

import (
	"errors"
	"fmt"
	"math/bits"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"qlive/vmstate"
)

func TestMemfd(t *testing.T) {
	noLeak(t)
	set := mustCreate(t, vmstate.MemorySpec{}, Want{Name: "pc.ram", SizeBytes: 8 * mib}, Want{Name: "pc.rom", SizeBytes: 8192})
	if got := len(set.Regions()); got != 2 {
		t.Fatalf("%d regions, want 2", got)
	}
	for i, r := range set.Regions() {
		if set.Files()[i] != r.File() {
			t.Errorf("file %d is not that of region %s", i, r.Name())
		}
		checkMapping(t, r, mapFile(t, r.File(), int(r.SizeBytes())), "/memfd:qlive-vm1-"+r.Name())
		checkMemfd(t, r)
	}
	r := set.Regions()[0]
	want := vmstate.Region{Name: "pc.ram", SizeBytes: 8 * mib, PageBytes: 4096, Backing: vmstate.Memfd, Inode: r.Inode(), State: vmstate.Owned, TotalBytes: 8 * mib}
	if got := r.Value(); got != want {
		t.Errorf("value %+v, want %+v", got, want)
	}
	if err := r.CheckSize(); err != nil {
		t.Error(err)
	}
}

// checkMemfd makes sure that the memfd cannot change its size, can be mapped by the next QEMU, can have holes
// punched, and is not inherited by chance.
func checkMemfd(t *testing.T, r *Region) {
	t.Helper()
	seals, err := unix.FcntlInt(r.File().Fd(), unix.F_GET_SEALS, 0)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := seals&^unix.F_SEAL_EXEC, unix.F_SEAL_GROW|unix.F_SEAL_SHRINK|unix.F_SEAL_SEAL; got != want {
		t.Errorf("seals %#x, want %#x", got, want)
	}
	for _, size := range []int64{0, int64(r.SizeBytes() - r.PageBytes()), int64(r.SizeBytes() + r.PageBytes())} {
		if err := r.File().Truncate(size); !errors.Is(err, unix.EPERM) {
			t.Errorf("truncating to %d: %v, want EPERM", size, err)
		}
	}
	if _, err := unix.FcntlInt(r.File().Fd(), unix.F_ADD_SEALS, unix.F_SEAL_FUTURE_WRITE); !errors.Is(err, unix.EPERM) {
		t.Errorf("adding a seal: %v, want EPERM", err)
	}
	flags, err := unix.FcntlInt(r.File().Fd(), unix.F_GETFD, 0)
	if err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("descriptor flags %#x (%v), want close on exec", flags, err)
	}
	again, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", r.File().Fd()), os.O_RDWR, 0) // as QEMU does
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	mapFile(t, again, int(r.SizeBytes()))[0] = 1
	if err := unix.Fallocate(int(again.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, int64(r.PageBytes())); err != nil {
		t.Errorf("punching a hole: %v", err)
	}
}

func TestAllocatedBytesAndHoles(t *testing.T) {
	setTHP(t, "never") // they would make other numbers
	for _, c := range []struct {
		name string
		size uint64
	}{{"whole huge pages", 4 * mib}, {"a tail", 4*mib + 8192}} {
		t.Run(c.name, func(t *testing.T) {
			r := mustCreate(t, vmstate.MemorySpec{}, Want{Name: "ram", SizeBytes: c.size}).Regions()[0]
			check := func(when string, allocated uint64, holes bool) {
				t.Helper()
				got, err := r.AllocatedBytes()
				if err != nil || got != allocated {
					t.Errorf("%s: %d bytes allocated (%v), want %d", when, got, err, allocated)
				}
				if got, err := r.HasHoles(); err != nil || got != holes {
					t.Errorf("%s: holes %t (%v), want %t", when, got, err, holes)
				}
			}
			check("new", 0, true)
			b := mapFile(t, r.File(), int(c.size))
			b[5000] = 1
			check("one page touched", 4096, true)
			for at := 0; at < len(b); at += 4096 {
				b[at] = 1
			}
			check("all touched", c.size, false)
			if err := unix.Madvise(b[8192:12288], unix.MADV_REMOVE); err != nil {
				t.Fatal(err)
			}
			check("a page given back", c.size-4096, true)
		})
	}
}

// A huge page that reaches beyond the end makes the count as large as the block; the hole elsewhere is found still.
func TestHolesBehindAHugeTail(t *testing.T) {
	setTHP(t, "always")
	r := mustCreate(t, vmstate.MemorySpec{}, Want{Name: "ram", SizeBytes: 3 * mib}).Regions()[0]
	b := mapFile(t, r.File(), 4*mib) // beyond the end, so that the huge page fits in
	b[2*mib] = 1
	setTHP(t, "never")
	for at := 0; at < mib; at += 4096 {
		b[at] = 1
	}
	allocated, err := r.AllocatedBytes()
	if err != nil {
		t.Fatal(err)
	}
	if holes, err := r.HasHoles(); err != nil || !holes {
		t.Errorf("holes %t (%v) with %d bytes allocated, want the second of 3 MiB", holes, err, allocated)
	}
	if allocated != 3*mib {
		t.Errorf("%d bytes allocated, want %d for this test to show something", allocated, 3*mib)
	}
}

// setTHP sets what the host allows shared memory until the test ends.
func setTHP(t *testing.T, mode string) {
	t.Helper()
	text, err := os.ReadFile(shmemEnabled)
	if err != nil {
		t.Fatalf("this kernel has no transparent huge pages for shared memory: %v", err)
	}
	t.Cleanup(func() { writeFile(t, shmemEnabled, chosen(string(text))) })
	writeFile(t, shmemEnabled, mode)
}

func TestPopulateGetsTransparentHugePagesWhereAllowed(t *testing.T) {
	for mode, huge := range map[string]bool{"never": false, "advise": true} {
		t.Run(mode, func(t *testing.T) {
			setTHP(t, mode)
			set := mustCreate(t, vmstate.MemorySpec{}, Want{Name: "ram", SizeBytes: 8 * mib, Populate: true})
			noMapping(t)
			r := set.Regions()[0]
			if got, err := r.AllocatedBytes(); err != nil || got != 8*mib {
				t.Errorf("%d bytes allocated (%v), want all %d", got, err, 8*mib)
			}
			if holes, err := r.HasHoles(); err != nil || holes {
				t.Errorf("holes %t (%v), want none", holes, err)
			}
			if noted := len(set.Warnings()) > 0; noted == huge {
				t.Errorf("warnings %q", set.Warnings())
			}
			b := mapFile(t, r.File(), 8*mib)
			if err := unix.Madvise(b, unix.MADV_POPULATE_READ); err != nil {
				t.Fatal(err)
			}
			if got := pmdMapped(t, b); (got == 8*mib) != huge {
				t.Errorf("%d bytes of it are mapped by huge pages", got)
			}
		})
	}
}

// pmdMapped is how much of b is mapped by transparent huge pages.
func pmdMapped(t *testing.T, b []byte) int {
	t.Helper()
	text, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(text), mapping(t, b)[0])
	_, after, found := strings.Cut(after, "ShmemPmdMapped:")
	if !found {
		t.Fatal("smaps has no ShmemPmdMapped")
	}
	var kib int
	if _, err := fmt.Sscan(after, &kib); err != nil {
		t.Fatal(err)
	}
	return kib << 10
}

func TestHugetlb(t *testing.T) {
	noLeak(t)
	hugePool(t, 2*mib, 8)
	set := mustCreate(t, vmstate.MemorySpec{Backing: vmstate.Hugetlb, PageBytes: 2 * mib}, Want{Name: "a", SizeBytes: 8 * mib}, Want{Name: "b", SizeBytes: 4 * mib})
	noMapping(t)
	checkPromised(t, set.Regions()[0])
	for _, r := range set.Regions() {
		checkMemfd(t, r)
	}
	if got := set.Regions()[1].Value(); got.Backing != vmstate.Hugetlb || got.PageBytes != 2*mib {
		t.Errorf("value %+v", got)
	}
}

// checkPromised makes sure that of a pool of 8 pages, 6 of which the new set of r took, the guest gets what it was
// promised while nobody else does, and that the next QEMU needs nothing more.
func checkPromised(t *testing.T, r *Region) {
	t.Helper()
	const page = 2 * mib
	if got := availablePages(t, page); got != 2 {
		t.Fatalf("%d pages are available, want 2 of 8", got)
	}
	if got, err := r.AllocatedBytes(); err != nil || got != 0 {
		t.Errorf("%d bytes allocated (%v), want none yet", got, err)
	}
	_, err := Create(vmstate.MemorySpec{Backing: vmstate.Hugetlb, PageBytes: page}, "vm2", []Want{{Name: "ok", SizeBytes: page}, {Name: "c", SizeBytes: 2 * page}})
	checkKind(t, err, vmstate.Exhausted, "vm2", "3 huge pages", "2 MiB", "2 of the pool's", "nr_hugepages")
	first, second := mapFile(t, r.File(), int(r.SizeBytes())), mapFile(t, r.File(), int(r.SizeBytes()))
	for at := 0; at < len(first); at += page {
		first[at] = 42
	}
	if second[0] != 42 || second[page] != 42 {
		t.Error("the second mapping shows something else")
	}
	if got := availablePages(t, page); got != 2 {
		t.Errorf("%d pages are available after the guest touched all, want 2 still", got)
	}
	if got, err := r.AllocatedBytes(); err != nil || got != r.SizeBytes() {
		t.Errorf("%d bytes allocated (%v), want %d", got, err, r.SizeBytes())
	}
	if holes, err := r.HasHoles(); err != nil || holes {
		t.Errorf("holes %t (%v), want none", holes, err)
	}
	if err := unix.Fallocate(int(r.File().Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, page); err != nil {
		t.Fatal(err)
	}
	if holes, err := r.HasHoles(); err != nil || !holes {
		t.Errorf("holes %t (%v), want the one punched", holes, err)
	}
	if got := availablePages(t, page); got != 3 {
		t.Errorf("%d pages are available after a hole was punched, want 3: the hole's promise is gone", got)
	}
	mapFile(t, r.File(), int(r.SizeBytes()))
	if got := availablePages(t, page); got != 2 {
		t.Errorf("%d pages are available after the next mapping, want 2: it renews the promise", got)
	}
}

func TestHugetlbPopulated(t *testing.T) {
	noLeak(t)
	hugePool(t, 2*mib, 4)
	r := mustCreate(t, vmstate.MemorySpec{Backing: vmstate.Hugetlb, PageBytes: 2 * mib}, Want{Name: "a", SizeBytes: 8 * mib, Populate: true}).Regions()[0]
	if got, err := r.AllocatedBytes(); err != nil || got != 8*mib {
		t.Errorf("%d bytes allocated (%v), want all %d", got, err, 8*mib)
	}
}

func TestGiganticPages(t *testing.T) {
	noLeak(t)
	const gib = 1 << 30
	hugePool(t, gib, 1)
	spec := vmstate.MemorySpec{Backing: vmstate.Hugetlb, PageBytes: gib}
	r := mustCreate(t, spec, Want{Name: "a", SizeBytes: gib}).Regions()[0]
	if got := availablePages(t, gib); got != 0 {
		t.Errorf("%d pages are available, want none", got)
	}
	_, err := Create(spec, "vm2", []Want{{Name: "a", SizeBytes: gib}})
	checkKind(t, err, vmstate.Exhausted, "1 huge pages of 1 GiB", "0 of the pool's 1", "echo 2 > /sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages", "hugepagesz=1G hugepages=2")
	mapFile(t, r.File(), gib)[gib-1] = 1
	if got, err := r.AllocatedBytes(); err != nil || got != gib {
		t.Errorf("%d bytes allocated (%v), want one page", got, err)
	}
}

func TestMixedPages(t *testing.T) {
	noLeak(t)
	hugePool(t, 2*mib, 2)
	set := mustCreate(t, vmstate.MemorySpec{}, Want{Name: "small", SizeBytes: 8192}, Want{Name: "big", SizeBytes: 4 * mib, PageBytes: 2 * mib})
	if small, big := set.Regions()[0], set.Regions()[1]; small.Backing() != vmstate.Memfd || big.Backing() != vmstate.Hugetlb || big.PageBytes() != 2*mib {
		t.Errorf("made %+v and %+v", small.Value(), big.Value())
	}
}

// A process that inherits the files, as QEMU does, opens them anew through /proc and writes; and inherits nothing else.
func TestInheritedFiles(t *testing.T) {
	set := mustCreate(t, vmstate.MemorySpec{}, Want{Name: "a", SizeBytes: 8192}, Want{Name: "b", SizeBytes: 8192})
	mustCreate(t, vmstate.MemorySpec{}, Want{Name: "other", SizeBytes: 8192})
	cmd := exec.Command("sh", "-c", "printf hello | dd of=/proc/self/fd/4 bs=1 seek=4096 conv=notrunc status=none && ls -l /proc/self/fd")
	cmd.ExtraFiles = set.Files()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if b := mapFile(t, set.Files()[1], 8192); string(b[4096:4101]) != "hello" {
		t.Errorf("the file has %q", b[4096:4101])
	}
	if !strings.Contains(string(out), "3 -> /memfd:qlive-vm1-a") || strings.Contains(string(out), "other") {
		t.Errorf("inherited:\n%s", out)
	}
}

func TestOldKernelWithoutNoexecSeal(t *testing.T) {
	noLeak(t)
	set, err := create(newHost(oldKernel{}), vmstate.MemorySpec{}, "vm1", []Want{{Name: "a", SizeBytes: 4096}})
	if err != nil {
		t.Fatal(err)
	}
	defer set.Close()
	checkMemfd(t, set.Regions()[0])
}

type oldKernel struct{ linux }

func (k oldKernel) memfd(name string, flags int) (*os.File, error) {
	if flags&unix.MFD_NOEXEC_SEAL != 0 {
		return nil, os.NewSyscallError("memfd_create", unix.EINVAL)
	}
	return k.linux.memfd(name, flags)
}

func TestCloseTwiceAndWhileLookedAt(t *testing.T) {
	noLeak(t)
	set, err := Create(vmstate.MemorySpec{}, "vm1", []Want{{Name: "a", SizeBytes: 8 * mib}})
	if err != nil {
		t.Fatal(err)
	}
	var looking sync.WaitGroup
	for range 4 {
		looking.Go(func() {
			for {
				if _, err := set.Regions()[0].HasHoles(); err != nil {
					if !errors.Is(err, os.ErrClosed) {
						t.Error(err)
					}
					return
				}
			}
		})
	}
	for range 2 {
		if err := set.Close(); err != nil {
			t.Error(err)
		}
	}
	looking.Wait()
	checkKind(t, set.Regions()[0].CheckSize(), vmstate.Host, `"a"`)
}

func TestUndo(t *testing.T) {
	hugePool(t, 2*mib, 8)
	dir := hugeMount(t, "pagesize=2M")
	refused := errors.New("refused by the test")
	for _, spec := range []vmstate.MemorySpec{
		{}, {Backing: vmstate.Hugetlb, PageBytes: 2 * mib}, {Backing: vmstate.Hugetlbfs, Path: dir},
	} {
		wants := []Want{{Name: "a", SizeBytes: 2 * mib}, {Name: "b", SizeBytes: 4 * mib, Populate: true}, {Name: "c", SizeBytes: 2 * mib, Populate: true}}
		calls := &faulty{}
		set, err := create(newHost(calls), spec, "vm1", wants)
		if err != nil {
			t.Fatal(err)
		}
		if err := set.Close(); err != nil {
			t.Fatal(err)
		}
		for at := 1; at <= calls.calls; at++ {
			for _, cause := range []error{refused, unix.ENOMEM} {
				t.Run(fmt.Sprintf("%s call %d of %d, %v", spec.Backing, at, calls.calls, cause), func(t *testing.T) {
					noLeak(t)
					_, err := create(newHost(&faulty{failAt: at, err: cause}), spec, "vm1", wants)
					if !errors.Is(err, cause) || vmstate.KindOf(err) == vmstate.Internal {
						t.Errorf("error %v of kind %s, want one for %v", err, vmstate.KindOf(err), cause)
					}
					checkEmpty(t, dir)
					if got := availablePages(t, 2*mib); got != 8 {
						t.Errorf("%d pages are available, want all 8", got)
					}
				})
			}
		}
	}
}

func checkEmpty(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 0 {
		t.Errorf("%s has %v (%v), want nothing", dir, entries, err)
	}
}

func TestAlignBytes(t *testing.T) {
	for _, c := range []struct{ size, page, want uint64 }{
		{4096, 4096, 4096}, {2*mib - 4096, 4096, 4096}, {2 * mib, 4096, 2 * mib}, {64 * mib, 4096, 2 * mib},
		{2 * mib, 2 * mib, 2 * mib}, {1 << 30, 1 << 30, 1 << 30},
	} {
		r := Region{plan: plan{want: Want{SizeBytes: c.size}, pageBytes: c.page}}
		if got := r.AlignBytes(); got != c.want {
			t.Errorf("%d bytes of pages of %d are aligned to %d, want %d", c.size, c.page, got, c.want)
		}
	}
}

func TestBytesText(t *testing.T) {
	for n, want := range map[uint64]string{1: "1 bytes", 4096: "4 KiB", 2 * mib: "2 MiB", 3 << 30: "3 GiB", mib + 1024: "1025 KiB"} {
		if got := bytesText(n); got != want {
			t.Errorf("bytesText(%d) = %q, want %q", n, got, want)
		}
	}
}

func BenchmarkCreateMemfd(b *testing.B) {
	for b.Loop() {
		set, err := Create(vmstate.MemorySpec{}, "vm1", []Want{{Name: "ram", SizeBytes: 1 << bits.Len(1<<30-1)}})
		if err != nil {
			b.Fatal(err)
		}
		if err := set.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkHasHoles(b *testing.B) {
	set, err := Create(vmstate.MemorySpec{}, "vm1", []Want{{Name: "ram", SizeBytes: 64*mib + 4096, Populate: true}, {Name: "even", SizeBytes: 64 * mib, Populate: true}})
	if err != nil {
		b.Fatal(err)
	}
	defer set.Close()
	for i, name := range []string{"odd size", "even size"} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if holes, err := set.Regions()[i].HasHoles(); err != nil || holes {
					b.Fatal(holes, err)
				}
			}
		})
	}
}
