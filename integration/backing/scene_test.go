package backing_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"qlive/integration/guest"
	"qlive/integration/lab"
	"qlive/internal/proc"
	"qlive/vmstate"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	mib = 1 << 20
	gib = 1 << 30
)

// small is what a guest verifies quickly.
func small() guest.Params { return guest.Params{FillMiB: 64, DirtyMiB: 4, VerifySecs: -1} }

// pool is that of the pages of 2 MiB.
func pool(t *testing.T) proc.Pool {
	t.Helper()
	p, known := poolOf(t, 2*mib)
	if !known {
		t.Fatal("the host has no huge pages of 2 MiB")
	}
	return p
}

func poolOf(t *testing.T, pageBytes uint64) (_ proc.Pool, known bool) {
	t.Helper()
	pools, err := proc.ReadPools()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pools {
		if p.PageBytes == pageBytes {
			return p, true
		}
	}
	return proc.Pool{}, false
}

// wantPool gives the host so many huge pages that are free, for this test alone. At the end they must be free again, and the pool is as it was. What it returns
// makes of them another number, those that the test uses included.
func wantPool(t *testing.T, pages uint64) (resize func(pages uint64)) {
	t.Helper()
	lock, err := os.OpenFile("/tmp/qlive-hugepages.lock", os.O_RDWR|os.O_CREATE, 0o666)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	was := pool(t)
	set := func(n uint64) {
		if err := os.WriteFile("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", []byte(strconv.FormatUint(n, 10)), 0); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(func() {
		deadline := time.Now().Add(lab.Limit)
		for pool(t).Available() != pages && time.Now().Before(deadline) {
			time.Sleep(5 * time.Millisecond)
		}
		if p := pool(t); p.Available() != pages {
			t.Errorf("at the end the pool is %+v, of which %d pages should be free", p, pages)
		}
		set(was.Total)
		if now := pool(t); now != was {
			t.Errorf("the pool is %+v, it was %+v", now, was)
		}
		lock.Close()
	})
	set(was.Total - was.Available() + pages)
	if got := pool(t).Available(); got != pages {
		t.Fatalf("the host has %d huge pages for this test, it wants %d", got, pages)
	}
	return func(n uint64) { set(was.Total - was.Available() + n) }
}

// giantPages asks the kernel for so many free pages of 1 GiB, for a test that has the pools for itself, and tells how many it has found, and whether it knows
// such pages. At the end the pool is as it was.
func giantPages(t *testing.T, want uint64) (found uint64, known bool) {
	t.Helper()
	was, known := poolOf(t, gib)
	if !known {
		return 0, false
	}
	set := func(n uint64) {
		if err := os.WriteFile("/sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages", []byte(strconv.FormatUint(n, 10)), 0); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(func() { set(was.Total) })
	set(was.Total - was.Available() + want)
	now, _ := poolOf(t, gib)
	return now.Available(), true
}

// hugetlbfs mounts one for the test alone, and gives a folder in it that is root's.
func hugetlbfs(t *testing.T) string {
	t.Helper()
	mount, err := os.MkdirTemp("", "qlive-huge-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(mount) })
	if err := unix.Mount("none", mount, "hugetlbfs", unix.MS_NOSUID|unix.MS_NODEV, "pagesize=2M"); err != nil {
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

// is looks at what the guest's RAM is made of.
func is(t *testing.T, vm vmstate.VM, backing vmstate.Backing, pages uint64) {
	t.Helper()
	if len(vm.Regions) != 1 {
		t.Fatalf("%d regions", len(vm.Regions))
	}
	if r := vm.Regions[0]; r.Backing != backing || r.PageBytes != pages || r.OwnerPID != vm.PID {
		t.Errorf("the RAM is %+v, want %s with pages of %d bytes", r, backing, pages)
	}
}

// refused makes sure that a handoff was undone for a reason, and says the words.
func refused(t *testing.T, m vmstate.Migration, kind vmstate.Kind, words ...string) {
	t.Helper()
	if m.Phase != vmstate.RolledBack || m.Error == nil || m.Error.Kind() != kind {
		t.Fatalf("the migration is %s: %+v", m.Phase, m.Error)
	}
	for _, w := range words {
		if text := m.Error.Detail + "\n" + m.Error.Remedy; !strings.Contains(text, w) {
			t.Errorf("%q is not in %q", w, text)
		}
	}
}

// nothingMoved makes sure that no second RAM and no ledger is left in a daemon's folder.
func nothingMoved(runDir string) error {
	if _, err := os.Stat(filepath.Join(runDir, "vms/vm1/moves")); !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("the ledger is there: %v", err)
	}
	text, err := os.ReadFile(filepath.Join(runDir, "vms/vm1/vm.json"))
	if err == nil && strings.Contains(string(text), "next_memory") {
		err = errors.New("a second RAM is written down")
	}
	return err
}
