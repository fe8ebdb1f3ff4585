package lab

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"qlive/internal/proc"
)

// hugePage is the size of the pages that HugePages gives, bytes.
const hugePage = 2 << 20

// HugePages gives the host so many free huge pages of 2 MiB for this test alone, and a hugetlbfs mount of its own. At the end the pool is as it was,
// and the test fails if it cannot be.
func HugePages(t testing.TB, pages uint64) (mount string) {
	t.Helper()
	lock, err := os.OpenFile("/tmp/qlive-hugepages.lock", os.O_RDWR|os.O_CREATE, 0o666)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { lock.Close() })
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	was := hugePool(t)
	t.Cleanup(func() {
		setPool(t, was.Total)
		if now := hugePool(t); now.Total != was.Total || now.Available() != was.Available() {
			t.Errorf("the pool is %+v, it was %+v", now, was)
		}
	})
	setPool(t, was.Total-was.Available()+pages)
	if got := hugePool(t).Available(); got != pages {
		t.Fatalf("the host has %d huge pages for this test, it wants %d", got, pages)
	}
	if mount, err = os.MkdirTemp("", "qlive-huge-"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(mount) }) // it is empty, or the unmounting has failed and says so
	if err := unix.Mount("none", mount, "hugetlbfs", unix.MS_NOSUID|unix.MS_NODEV, "pagesize=2M"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		left, _ := filepath.Glob(filepath.Join(mount, "*")) // the pattern is right
		for _, path := range left {
			_ = os.Remove(path)
		}
		if err := unix.Unmount(mount, 0); err != nil {
			t.Errorf("unmounting: %v", err)
		}
	})
	return mount
}

func setPool(t testing.TB, pages uint64) {
	t.Helper()
	if err := os.WriteFile("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", []byte(strconv.FormatUint(pages, 10)), 0); err != nil {
		t.Error(err)
	}
}

func hugePool(t testing.TB) proc.Pool {
	t.Helper()
	pools, err := proc.ReadPools()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pools {
		if p.PageBytes == hugePage {
			return p
		}
	}
	t.Fatal("the host has no huge pages of 2 MiB")
	return proc.Pool{}
}
