package start_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"qlive/daemon"
	"qlive/integration/env"
	"qlive/integration/lab"
	"qlive/internal/proc"
	"qlive/vmstate"
)

func poolFile(pageBytes uint64) string {
	return fmt.Sprintf("/sys/kernel/mm/hugepages/hugepages-%dkB/nr_hugepages", pageBytes>>10)
}

// poolOf reads the pool of pages of a size.
func poolOf(t *testing.T, pageBytes uint64) proc.Pool {
	t.Helper()
	pools, err := proc.ReadPools()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pools {
		if p.PageBytes == pageBytes {
			return p
		}
	}
	return proc.Pool{}
}

// havePool gives the host so many huge pages that are free, for this test alone, and puts everything back. It returns how many the
// kernel could make, which may be fewer.
func havePool(t *testing.T, pageBytes, pages uint64) uint64 {
	t.Helper()
	lock, err := os.OpenFile("/tmp/qlive-hugepages.lock", os.O_RDWR|os.O_CREATE, 0o666)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	was := poolOf(t, pageBytes)
	set := func(n uint64) {
		if err := os.WriteFile(poolFile(pageBytes), []byte(strconv.FormatUint(n, 10)), 0); err != nil {
			t.Errorf("setting the pool: %v", err)
		}
	}
	t.Cleanup(func() {
		set(was.Total)
		if now := poolOf(t, pageBytes); now != was {
			t.Errorf("the pool is %+v, it was %+v", now, was)
		}
		if err := lock.Close(); err != nil {
			t.Error(err)
		}
	})
	set(was.Total - was.Available() + pages) // what others use stays theirs
	return poolOf(t, pageBytes).Available()
}

// wantPool is havePool where fewer will not do.
func wantPool(t *testing.T, pages uint64) {
	t.Helper()
	if got := havePool(t, 2*mib, pages); got != pages {
		t.Fatalf("the host has %d huge pages for this test, it wants %d", got, pages)
	}
}

// hugetlbfs mounts one for the test alone, and gives a folder in it that is root's.
func hugetlbfs(t *testing.T, options string) string {
	t.Helper()
	mount, err := os.MkdirTemp("", "qlive-huge-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(mount) })
	if err := unix.Mount("none", mount, "hugetlbfs", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(mount, 0); err != nil {
			t.Errorf("unmounting: %v", err)
		}
	})
	folder := filepath.Join(mount, "qlive")
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	return folder
}

// A guest whose RAM takes every huge page of the host goes through all QEMUs by all ways: there is no room for a second copy of a single page.
func TestHugePagesExactly(t *testing.T) {
	const size, pages = 256 * mib, 128
	for _, backing := range []vmstate.Backing{vmstate.Hugetlb, vmstate.Hugetlbfs} {
		t.Run(string(backing), func(t *testing.T) {
			wantPool(t, pages)
			memory := vmstate.MemorySpec{Backing: backing}
			if backing == vmstate.Hugetlbfs {
				memory.Path = hugetlbfs(t, "pagesize=2M")
			}
			l := lab.New(t, lab.Options{NoTree: true})
			vm := l.Boot(lab.Spec{Memory: memory, Guest: small()})
			checkRAM(t, vm.Show(), []vmstate.Region{{Name: "pc.ram", SizeBytes: size, Backing: backing, PageBytes: 2 * mib}})
			if pool := poolOf(t, 2*mib); pool.Available() != 0 {
				t.Errorf("the pool is %+v: all of it should be the guest's", pool)
			}
			inode := vm.Show().Regions[0].Inode
			versions := []string{env.Newest, env.Backport, env.Installed, env.Newest}
			for i, version := range versions {
				m := vm.HandOver(version, append(vmstate.Ways(), vmstate.WayDeviceState)[i])
				if r := m.Regions[0]; r.Inode != inode || r.State != vmstate.Released {
					t.Errorf("region %+v after the handoff to %s", r, version)
				}
				if pool := poolOf(t, 2*mib); pool.Available() != 0 || pool.Surplus != 0 {
					t.Errorf("the pool is %+v", pool)
				}
			}
			vm.CheckMemory()
			if backing == vmstate.Hugetlbfs {
				checkFile(t, memory.Path, inode)
			}
			remove(t, l, vm.Name)
			await(t, "the huge pages are free", lab.Limit, func() error {
				if pool := poolOf(t, 2*mib); pool.Available() != pages {
					return fmt.Errorf("the pool is %+v", pool)
				}
				return nil
			})
			if memory.Path != "" {
				if left, err := os.ReadDir(memory.Path); err != nil || len(left) > 0 {
					t.Errorf("%v are left (%v)", left, err)
				}
			}
		})
	}
}

// Huge pages are of use to a QEMU that is not root's, which needs them to be its user's.
func TestHugePagesOfAUser(t *testing.T) {
	const pages = 32
	for _, backing := range []vmstate.Backing{vmstate.Hugetlb, vmstate.Hugetlbfs} {
		t.Run(string(backing), func(t *testing.T) {
			wantPool(t, pages)
			memory := vmstate.MemorySpec{Backing: backing}
			if backing == vmstate.Hugetlbfs {
				memory.Path = hugetlbfs(t, "pagesize=2M")
			}
			l := lab.New(t, lab.Options{NoTree: true, Configure: func(c *daemon.Config) { c.User = "nobody" }})
			vm := begin(t, l, vmstate.VMSpec{Args: machineArgs("-m", "64"), Memory: memory})
			for _, version := range []string{env.Newest, env.Installed} {
				handOver(t, l, vmstate.MigrationSpec{VM: vm.Name, Binary: l.Env.QEMU(version)})
			}
			var st unix.Stat_t
			vm, err := l.Client.VM(t.Context(), vm.Name)
			if err != nil {
				t.Fatal(err)
			}
			if err := unix.Stat("/proc/"+strconv.Itoa(vm.PID)+"/fd/3", &st); err != nil || st.Ino != vm.Regions[0].Inode || st.Uid == 0 || st.Mode&0o777 != 0o600 {
				t.Errorf("the RAM is %+v, %v", st, err)
			}
			remove(t, l, vm.Name)
		})
	}
}

// checkFile looks at the file that holds guest RAM: nobody but root can reach it.
func checkFile(t *testing.T, folder string, inode uint64) {
	t.Helper()
	files, err := os.ReadDir(folder)
	if err != nil || len(files) != 1 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	info, err := files[0].Info()
	if err != nil {
		t.Fatal(err)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || st.Ino != inode || info.Mode() != 0o600 || st.Uid != 0 || st.Gid != 0 || info.Size() != 256*mib {
		t.Errorf("the file is %s, %v, %+v", info.Name(), info.Mode(), st)
	}
	if dir, err := os.Stat(folder); err != nil || dir.Mode().Perm()&0o022 != 0 {
		t.Errorf("the folder is %v, %v", dir, err)
	}
}

// A pool that is a page too small is refused before anything starts, with the numbers and the command that helps.
func TestHugePagesTooFew(t *testing.T) {
	wantPool(t, 31)
	l := lab.New(t, lab.Options{NoTree: true})
	folder := hugetlbfs(t, "pagesize=2M")
	need := poolOf(t, 2*mib).Total + 1
	for _, memory := range []vmstate.MemorySpec{{Backing: vmstate.Hugetlb}, {Backing: vmstate.Hugetlb, PageBytes: 2 * mib}, {Backing: vmstate.Hugetlbfs, Path: folder}} {
		for name, args := range map[string][]string{
			"one region":  machineArgs("-m", "64"),
			"two regions": machineArgs("-m", "32,slots=1,maxmem=1G", "-object", "memory-backend-ram,id=more,size=32M", "-device", "pc-dimm,memdev=more"),
		} {
			t.Run(fmt.Sprint(memory.Backing, memory.PageBytes, " ", name), func(t *testing.T) {
				before, pool := look(t, l), poolOf(t, 2*mib)
				spec := vmstate.VMSpec{Name: "vm1", Binary: l.Env.QEMU(env.Installed), Args: args, Memory: memory}
				_, err := l.Client.StartVM(t.Context(), spec)
				refused(t, err, vmstate.Exhausted, "32 huge pages of 2 MiB", "31 of the pool's", fmt.Sprintf("sysctl vm.nr_hugepages=%d", need))
				if after := look(t, l); after != before {
					t.Errorf("something is left: %+v, before %+v", after, before)
				}
				if after := poolOf(t, 2*mib); after != pool {
					t.Errorf("the pool is %+v, it was %+v", after, pool)
				}
				if left, err := os.ReadDir(folder); err != nil || len(left) > 0 {
					t.Errorf("%v are left (%v)", left, err)
				}
			})
		}
	}
	// What the problem says is so: one page more, and the same line starts.
	if err := os.WriteFile(poolFile(2*mib), []byte(strconv.FormatUint(need, 10)), 0); err != nil {
		t.Fatal(err)
	}
	begin(t, l, vmstate.VMSpec{Args: machineArgs("-m", "64"), Memory: vmstate.MemorySpec{Backing: vmstate.Hugetlb}})
	remove(t, l, "vm1")
}

// A folder in which others can put files is no place for guest RAM.
func TestHugetlbfsFolderOfOthers(t *testing.T) {
	wantPool(t, 32)
	l := lab.New(t, lab.Options{NoTree: true})
	folder := hugetlbfs(t, "pagesize=2M")
	if err := os.Chmod(folder, 0o777); err != nil {
		t.Fatal(err)
	}
	before := look(t, l)
	_, err := l.Client.StartVM(t.Context(), vmstate.VMSpec{Name: "vm1", Binary: l.Env.QEMU(env.Installed), Args: machineArgs("-m", "64"),
		Memory: vmstate.MemorySpec{Backing: vmstate.Hugetlbfs, Path: folder}})
	refused(t, err, vmstate.Denied, folder, "0777", "mkdir -m 0700")
	if after := look(t, l); after != before {
		t.Errorf("something is left: %+v, before %+v", after, before)
	}
}

// Huge pages that the line itself asks for are had as well.
func TestHugePagesOfTheLine(t *testing.T) {
	wantPool(t, 32)
	l := lab.New(t, lab.Options{NoTree: true})
	folder := hugetlbfs(t, "pagesize=2M")
	for name, args := range map[string][]string{
		"-mem-path":      machineArgs("-m", "64", "-mem-path", folder),
		"memfd, hugetlb": machineArgs("-m", "64", "-object", "memory-backend-memfd,id=m,size=64M,hugetlb=on,hugetlbsize=2M", "-machine", "memory-backend=m"),
		"default size":   machineArgs("-m", "64", "-object", "memory-backend-memfd,id=m,size=64M,hugetlb=on", "-machine", "memory-backend=m"),
		"file":           machineArgs("-m", "64", "-object", "memory-backend-file,id=m,size=64M,mem-path="+folder, "-machine", "memory-backend=m"),
	} {
		t.Run(name, func(t *testing.T) {
			vm := begin(t, l, vmstate.VMSpec{Args: args})
			name := "m"
			if strings.HasPrefix(t.Name(), "TestHugePagesOfTheLine/-mem-path") {
				name = "pc.ram"
			}
			checkRAM(t, vm, []vmstate.Region{{Name: name, SizeBytes: 64 * mib, Backing: vmstate.Hugetlb, PageBytes: 2 * mib}})
			handOver(t, l, vmstate.MigrationSpec{VM: vm.Name, Binary: l.Env.QEMU(env.Newest)})
			remove(t, l, vm.Name)
		})
	}
}

// Pages of 1 GiB can seldom be found once a host has run for a while. Where the kernel finds one the guest gets it and is handed over;
// where it does not, the refusal says what to do.
func TestHugePageOf1GiB(t *testing.T) {
	const gib = 1 << 30
	if _, err := os.Stat(poolFile(gib)); errors.Is(err, os.ErrNotExist) {
		l := lab.New(t, lab.Options{NoTree: true})
		_, err := l.Client.StartVM(t.Context(), vmstate.VMSpec{Name: "vm1", Binary: l.Env.QEMU(env.Installed), Args: machineArgs("-m", "1024"),
			Memory: vmstate.MemorySpec{Backing: vmstate.Hugetlb, PageBytes: gib}})
		refused(t, err, vmstate.Unsupported, "1 GiB", "2 MiB")
		t.Log("this host has no pages of 1 GiB: seen only that they are refused")
		return
	}
	found := havePool(t, gib, 1)
	l := lab.New(t, lab.Options{NoTree: true})
	spec := vmstate.VMSpec{Name: "vm1", Binary: l.Env.QEMU(env.Installed), Memory: vmstate.MemorySpec{Backing: vmstate.Hugetlb, PageBytes: gib},
		// The kernel zeroes such a page at the first touch, which takes a second here, and QEMU's stop waits for the vCPU that touches it.
		Args: machineArgs("-m", "1024", "-mem-prealloc")}
	if found == 0 {
		_, err := l.Client.StartVM(t.Context(), spec)
		refused(t, err, vmstate.Exhausted, "1 huge pages of 1 GiB", "hugepagesz=1G")
		t.Log("the kernel found no page of 1 GiB: seen only that it is refused")
		return
	}
	vm := begin(t, l, spec)
	checkRAM(t, vm, []vmstate.Region{{Name: "pc.ram", SizeBytes: gib, Backing: vmstate.Hugetlb, PageBytes: gib}})
	for _, version := range []string{env.Newest, env.Installed} {
		handOver(t, l, vmstate.MigrationSpec{VM: vm.Name, Binary: l.Env.QEMU(version)})
	}
	remove(t, l, vm.Name)
}

// Ordinary RAM gets transparent huge pages where the host allows them, in the first QEMU and in the next.
func TestTransparentHugePages(t *testing.T) {
	havePool(t, 2*mib, 0) // for its lock: it guards this setting as well
	const file = "/sys/kernel/mm/transparent_hugepage/shmem_enabled"
	text, err := os.ReadFile(file)
	if err != nil {
		t.Skipf("this kernel has no transparent huge pages for shared memory: %v", err)
	}
	_, was, _ := strings.Cut(string(text), "[")
	was, _, _ = strings.Cut(was, "]")
	set := func(to string) {
		if err := os.WriteFile(file, []byte(to), 0); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(func() { set(was) })
	l := lab.New(t, lab.Options{NoTree: true})
	for setting, want := range map[string]uint64{"advise": 64 * mib, "never": 0} {
		t.Run(setting, func(t *testing.T) {
			set(setting)
			vm := begin(t, l, vmstate.VMSpec{Args: machineArgs("-m", "64", "-mem-prealloc")})
			if warned := strings.Contains(strings.Join(vm.Warnings, "\n"), "echo advise"); warned != (want == 0) {
				t.Errorf("the warnings are %q", vm.Warnings)
			}
			m := handOver(t, l, vmstate.MigrationSpec{VM: vm.Name, Binary: l.Env.QEMU(env.Newest)})
			if got := hugeMapped(t, m.To.PID, vm.Regions[0].Inode); got != want {
				t.Errorf("the target maps %d bytes by huge pages, want %d", got, want)
			}
			remove(t, l, vm.Name)
		})
	}
}

// hugeMapped is how much of an inode a process maps by transparent huge pages.
func hugeMapped(t *testing.T, pid int, inode uint64) (total uint64) {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps", pid))
	if err != nil {
		t.Fatal(err)
	}
	ours := false
	for line := range strings.Lines(string(text)) {
		words := strings.Fields(line)
		if !strings.HasSuffix(words[0], ":") {
			ours = len(words) > 4 && words[4] == strconv.FormatUint(inode, 10)
		} else if ours && words[0] == "ShmemPmdMapped:" {
			kib, err := strconv.ParseUint(words[1], 10, 54)
			if err != nil {
				t.Fatal(err)
			}
			total += kib << 10
		}
	}
	return total
}
