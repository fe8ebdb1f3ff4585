package memory

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"qlive/vmstate"
)

const mib = 1 << 20

// hugePool gives the test exactly free unreserved huge pages of that size, and makes sure at the end that it still does.
func hugePool(t *testing.T, page, free uint64) {
	t.Helper()
	h := newHost(linux{})
	before, err := h.pool(page)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(h.poolDir(page), "nr_hugepages")
	t.Cleanup(func() { writeFile(t, file, fmt.Sprint(before.total)) })
	inUse := before.total - min(before.total, before.available())
	writeFile(t, file, fmt.Sprint(inUse+free))
	t.Cleanup(func() { // runs before the pool is put back
		if now := availablePages(t, page); now != free {
			t.Errorf("%d pages of %s are available at the end, want the %d there were", now, bytesText(page), free)
		}
	})
	if now := availablePages(t, page); now != free {
		t.Fatalf("the kernel made %d pages of %s available, want %d: memory is too fragmented or too small", now, bytesText(page), free)
	}
}

func availablePages(t *testing.T, page uint64) uint64 {
	t.Helper()
	p, err := newHost(linux{}).pool(page)
	if err != nil {
		t.Fatal(err)
	}
	return p.available()
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0); err != nil {
		t.Error(err)
	}
}

// hugeMount mounts a hugetlbfs of its own for the test.
func hugeMount(t *testing.T, options string) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "hugetlbfs", 0, options); err != nil {
		t.Fatalf("cannot mount hugetlbfs (these tests need root): %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("cannot unmount %s: %v", dir, err)
		}
	})
	return dir
}

// noLeak fails the test if it ends with other descriptors than it started with.
func noLeak(t *testing.T) {
	t.Helper()
	before := descriptors(t)
	t.Cleanup(func() {
		for fd, what := range descriptors(t) {
			if before[fd] != what {
				t.Errorf("descriptor %s is left: %s", fd, what)
			}
		}
	})
}

func descriptors(t *testing.T) map[string]string {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	fds := map[string]string{}
	for _, e := range entries {
		what, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err != nil || strings.HasPrefix(what, "anon_inode:") { // gone with ReadDir; or the runtime's poller
			continue
		}
		fds[e.Name()] = what
	}
	return fds
}

func mustCreate(t *testing.T, spec vmstate.MemorySpec, wants ...Want) *Set {
	t.Helper()
	set, err := Create(spec, "vm1", wants)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := set.Close(); err != nil {
			t.Error(err)
		}
	})
	return set
}

// noMapping fails the test if this process maps a block of guest RAM.
func noMapping(t *testing.T) {
	t.Helper()
	text, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if strings.Contains(line, "/memfd:qlive-") {
			t.Errorf("still mapped: %s", line)
		}
	}
}

// mapFile maps the first length bytes of file, shared and writable, until the test ends.
func mapFile(t *testing.T, file *os.File, length int) []byte {
	t.Helper()
	b, err := unix.Mmap(int(file.Fd()), 0, length, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Munmap(b); err != nil {
			t.Error(err)
		}
	})
	return b
}

// mapping is the line of /proc/self/maps for b.
func mapping(t *testing.T, b []byte) []string {
	t.Helper()
	text, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	start := fmt.Sprintf("%x-", uintptr(unsafe.Pointer(&b[0])))
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, start) {
			return strings.Fields(line)
		}
	}
	t.Fatalf("no mapping at %s", start)
	return nil
}

func checkMapping(t *testing.T, r *Region, b []byte, name string) {
	t.Helper()
	fields := mapping(t, b)
	wantDev := fmt.Sprintf("%02x:%02x", unix.Major(r.Dev()), unix.Minor(r.Dev()))
	if fields[1] != "rw-s" || fields[3] != wantDev || fields[4] != strconv.FormatUint(r.Inode(), 10) || fields[5] != name {
		t.Errorf("maps says %v, want a shared writable mapping of %s, inode %d on %s", fields, name, r.Inode(), wantDev)
	}
}

func checkKind(t *testing.T, err error, kind vmstate.Kind, words ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want kind %s", kind)
	}
	e, ok := errors.AsType[*vmstate.Error](err)
	if !ok || e.Kind != kind {
		t.Fatalf("error of kind %s, want %s: %v", vmstate.KindOf(err), kind, err)
	}
	if e.Remedy == "" && kind != vmstate.Host {
		t.Errorf("no remedy in %q", e.Detail)
	}
	for _, word := range words {
		if !strings.Contains(e.Detail+"\n"+e.Remedy, word) {
			t.Errorf("neither %q nor its remedy %q says %q", e.Detail, e.Remedy, word)
		}
	}
}

// faulty is the kernel, but for one call that fails.
type faulty struct {
	linux
	failAt int // 1 is the first call
	err    error
	calls  int
}

func (f *faulty) next() error {
	if f.calls++; f.calls == f.failAt {
		return f.err
	}
	return nil
}

func (f *faulty) memfd(name string, flags int) (*os.File, error) {
	if err := f.next(); err != nil {
		return nil, err
	}
	return f.linux.memfd(name, flags)
}

func (f *faulty) create(folder *os.Root, name string) (*os.File, error) {
	if err := f.next(); err != nil {
		return nil, err
	}
	return f.linux.create(folder, name)
}

func (f *faulty) truncate(file *os.File, size int64) error {
	return errors.Join(f.next(), f.linux.truncate(file, size))
}

func (f *faulty) seal(file *os.File, seals int) error {
	return errors.Join(f.next(), f.linux.seal(file, seals))
}

func (f *faulty) touch(file *os.File, size uint64, populate bool) error {
	return errors.Join(f.next(), f.linux.touch(file, size, populate))
}

// fakeHost is a host with pools and settings of the test's choice, whose system calls are real.
func fakeHost(t *testing.T, meminfo string, files map[string]string) host {
	t.Helper()
	dir := t.TempDir()
	h := host{kernel: linux{}, meminfo: filepath.Join(dir, "meminfo"), mm: filepath.Join(dir, "mm"), pageBytes: 4096}
	for path, text := range files {
		path = filepath.Join(h.mm, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(h.meminfo, []byte(meminfo), 0o644); err != nil {
		t.Fatal(err)
	}
	return h
}
