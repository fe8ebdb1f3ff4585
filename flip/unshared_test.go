package flip

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"qlive/internal/proc"
	"qlive/internal/qmp"
)

// mapped is memory of this process that stands for a block of the source's: the mirror reads /proc/self as it would QEMU's.
func mapped(t interface {
	Fatal(...any)
	Cleanup(func())
}, pages int, file *os.File) ([]byte, qmp.RAMBlock) {
	flags, fd := unix.MAP_PRIVATE|unix.MAP_ANONYMOUS, -1
	if file != nil {
		flags, fd = unix.MAP_PRIVATE, int(file.Fd())
	}
	mem, err := unix.Mmap(fd, 0, pages*targetPage, unix.PROT_READ|unix.PROT_WRITE, flags)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Munmap(mem) })
	size := uint64(len(mem))
	return mem, qmp.RAMBlock{Name: "vga.vram", Used: size, Total: size, Host: true, HVA: uint64(uintptr(unsafe.Pointer(&mem[0])))}
}

// target is what the target would have after what it was sent.
type target struct {
	mem   []byte
	pages int // sent, in the last pass
}

func (t *target) page(_ string, offset uint64, data []byte) error {
	if offset+uint64(len(data)) > uint64(len(t.mem)) || len(data)%targetPage != 0 || offset%targetPage != 0 {
		return fmt.Errorf("%d bytes at %#x", len(data), offset)
	}
	copy(t.mem[offset:], data)
	t.pages += len(data) / targetPage
	return nil
}

func newTestMirror(t interface {
	Fatal(...any)
	Cleanup(func())
}, blocks ...qmp.RAMBlock) *mirror {
	m, err := newMirror(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.close)
	if err := m.cover(blocks); err != nil {
		t.Fatal(err)
	}
	return m
}

func send(t interface{ Fatal(...any) }, m *mirror, to *target) {
	to.pages = 0
	if err := m.send(to.page); err != nil {
		t.Fatal(err)
	}
}

// Whatever the source writes, gives back or leaves alone between two passes, after each the target has what the source has, though it
// may have had anything at first.
func TestMirror(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "flash"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	const pages = 80 // more than one reading
	content := bytes.Repeat([]byte("flash"), pages*targetPage)[:pages*targetPage]
	if _, err := file.Write(content); err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"anonymous", "of a file"} {
		t.Run(kind, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				var backing *os.File
				if kind == "of a file" {
					backing = file
				}
				mem, block := mapped(t, pages, backing)
				m := newTestMirror(t, block)
				to := &target{mem: bytes.Repeat([]byte{0x5a}, len(mem))}
				page := rapid.IntRange(0, pages-1)
				for range rapid.IntRange(1, 4).Draw(t, "passes") {
					for range rapid.IntRange(0, 8).Draw(t, "changes") {
						p := mem[page.Draw(t, "page")*targetPage:][:targetPage]
						switch rapid.SampledFrom([]string{"write", "zero", "give back"}).Draw(t, "what") {
						case "write":
							p[rapid.IntRange(0, targetPage-1).Draw(t, "at")] = rapid.Byte().Draw(t, "byte")
						case "zero":
							clear(p)
						case "give back":
							if err := unix.Madvise(p, unix.MADV_DONTNEED); err != nil {
								t.Fatal(err)
							}
						}
					}
					send(t, m, to)
					if !bytes.Equal(to.mem, mem) {
						t.Fatal("the target does not have what the source has")
					}
				}
				if send(t, m, to); to.pages != 0 {
					t.Fatalf("%d pages are sent though nothing has changed", to.pages)
				}
			})
		})
	}
}

// Of a large block that is hardly touched only what is touched is read and sent, after the first pass.
func TestMirrorSendsWhatHasChanged(t *testing.T) {
	mem, block := mapped(t, 4096, nil)
	m := newTestMirror(t, block)
	to := &target{mem: make([]byte, len(mem))}
	mem[7*targetPage] = 1
	send(t, m, to)
	mem[7*targetPage], mem[9*targetPage+5] = 2, 3
	if send(t, m, to); to.pages != 2 {
		t.Errorf("%d pages are sent, two have changed", to.pages)
	}
	var resident uint64
	if err := m.tables.Present(proc.Range{Start: block.HVA, End: block.HVA + block.Used}, func(r proc.Range) { resident += r.End - r.Start }); err != nil {
		t.Fatal(err)
	}
	if resident != 2*targetPage {
		t.Errorf("%d bytes are resident: looking has touched the source's memory", resident)
	}
}

func TestMirrorSeveralBlocks(t *testing.T) {
	a, blockA := mapped(t, 4, nil)
	b, blockB := mapped(t, 4, nil)
	blockA.Name, blockB.Name = "a", "b"
	m := newTestMirror(t, blockA, blockB)
	copy(a, "of a")
	copy(b, "of b")
	got := map[string][]byte{"a": make([]byte, len(a)), "b": make([]byte, len(b))}
	if err := m.send(func(name string, offset uint64, data []byte) error {
		copy(got[name][offset:], data)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got["a"], a) || !bytes.Equal(got["b"], b) {
		t.Error("the blocks are mixed up")
	}
}

func TestMirrorRefuses(t *testing.T) {
	_, block := mapped(t, 4, nil)
	m := newTestMirror(t)
	odd := block
	odd.Used = targetPage + 1
	if err := m.cover([]qmp.RAMBlock{odd}); err == nil {
		t.Error("a block of no whole pages is taken")
	}
	gone := block
	gone.HVA = 0x1000 // below the lowest address that Linux maps by default
	if err := m.cover([]qmp.RAMBlock{gone}); err != nil {
		t.Fatal(err)
	}
	gone.Name = "gone"
	m.blocks[0].anon = false
	if err := m.send(func(string, uint64, []byte) error { return nil }); err == nil {
		t.Error("memory that is not there is read")
	}
	fails := newTestMirror(t, block)
	if err := fails.send(func(string, uint64, []byte) error { return os.ErrClosed }); err == nil {
		t.Error("what could not be sent is taken for sent")
	}
}

func TestAllZero(t *testing.T) {
	page := make([]byte, targetPage)
	if !allZero(page) {
		t.Error("a page of zeroes is said to hold something")
	}
	for at := range page {
		page[at] = 1
		if allZero(page) {
			t.Errorf("byte %d is not seen", at)
		}
		page[at] = 0
	}
	page = bytes.Repeat([]byte{7}, targetPage)
	if allZero(page) {
		t.Error("a page of sevens is said to be zero")
	}
}
