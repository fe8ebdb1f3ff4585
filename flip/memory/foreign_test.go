package memory

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"qlive/vmstate"
)

// RAM that a QEMU had before qlive is held by the very file that it maps, and keeps its name when it is let go of.
func TestReopenForeign(t *testing.T) {
	noLeak(t)
	const size = 4 * mib
	path := filepath.Join(t.TempDir(), "ram")
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := file.Truncate(size); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name    string
		backing vmstate.Backing
		fd      int
		flags   int
		find    Find
	}{
		{"a named file by its descriptor", vmstate.File, int(file.Fd()), unix.MAP_SHARED, InProcess(os.Getpid())},
		{"a named file by its mapping", vmstate.File, int(file.Fd()), unix.MAP_SHARED, InMaps(os.Getpid())},
		{"shared anonymous memory", vmstate.Anonymous, -1, unix.MAP_SHARED | unix.MAP_ANONYMOUS, InMaps(os.Getpid())},
	} {
		t.Run(c.name, func(t *testing.T) {
			ram, err := unix.Mmap(c.fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, c.flags)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Munmap(ram)
			ram[5] = 99
			st := behind(t, ram)
			set, err := Reopen([]Identity{{Name: "pc.ram", Backing: c.backing, SizeBytes: size, PageBytes: 4096, Dev: st.Dev, Inode: st.Ino, FileName: "ram", Foreign: true}}, c.find)
			if err != nil {
				t.Fatal(err)
			}
			if b := mapFile(t, set.Files()[0], size)[5]; b != 99 {
				t.Errorf("the byte is %d: this is other memory", b)
			}
			id := mustIdentify(t, set)[0]
			if !id.Foreign || id.Path != "" || id.Seals != 0 {
				t.Errorf("it is written down as %+v", id)
			}
			if err := set.Close(); err != nil {
				t.Error(err)
			}
			if _, err := os.Stat(path); err != nil {
				t.Errorf("the file has lost its name: %v", err)
			}
		})
	}
}

// behind is the file of the mapping that begins with ram.
func behind(t *testing.T, ram []byte) *syscall.Stat_t {
	t.Helper()
	links, err := filepath.Glob("/proc/self/map_files/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		info, err := os.Stat(link)
		if err != nil || info.Size() != int64(len(ram)) {
			continue
		}
		f, err := os.Open(link)
		if err != nil {
			t.Fatal(err)
		}
		var b [1]byte
		_, err = f.ReadAt(b[:], 5)
		f.Close()
		if err == nil && b[0] == 99 {
			return info.Sys().(*syscall.Stat_t)
		}
	}
	t.Fatal("no mapping holds the mark")
	return nil
}
