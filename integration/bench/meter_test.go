package bench

import (
	"encoding/binary"
	"os"
	"os/exec"
	"testing"
	"time"
)

// What a child used counts while it lives, and still after it has ended.
func TestFamilyCPU(t *testing.T) {
	before, err := familyCPU(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	child := exec.Command("sh", "-c", "while :; do :; done")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	const enough = 100 * time.Millisecond
	deadline := time.Now().Add(30 * time.Second)
	for {
		used, _, err := cpuOf(child.Process.Pid)
		if err != nil {
			t.Fatal(err)
		}
		if used >= enough {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the child has used %s in 30 s", used)
		}
		time.Sleep(5 * time.Millisecond)
	}
	alive, err := familyCPU(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	_ = child.Process.Kill()
	_ = child.Wait()
	ended, err := familyCPU(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if alive-before < enough || ended < alive {
		t.Errorf("before %s, with the child %s, after it %s", before, alive, ended)
	}
	if _, _, err := cpuOf(0); err == nil {
		t.Error("there is no process 0")
	}
}

func TestFindHost(t *testing.T) {
	heap := make([]byte, 4096)
	put := func(at int, host, offset, used, total uint64, name string) {
		for i, v := range []uint64{host, 0, offset, used, total} {
			binary.LittleEndian.PutUint64(heap[at+8*i:], v)
		}
		copy(heap[at+16+36:], name)
	}
	put(100, 0x7000, 0x1000, 0x2000, 0x2000, "pc.rom")
	put(1000, 0x9000, 0x1000, 0x2000, 0x2000, "pc.bios")
	for _, tt := range []struct {
		name string
		want uint64
	}{{"pc.bios", 0x9000}, {"pc.rom", 0x7000}, {"pc.bio", 0}, {"vga.vram", 0}} {
		if got := findHost(heap, tt.name, 0x1000, 0x2000, 0x2000); got != tt.want {
			t.Errorf("%s: got %#x, want %#x", tt.name, got, tt.want)
		}
	}
	if got := findHost(heap, "pc.bios", 0x1000, 0x3000, 0x2000); got != 0 {
		t.Errorf("another size: got %#x", got)
	}
}
