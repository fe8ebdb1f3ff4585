package fsview_test

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"qlive/fsview"
	"qlive/vmstate"
)

// Who opens a file in a lull waits for its end, and then reads what is true by then. Who has it open reads on.
func TestReadersSitOutALull(t *testing.T) {
	source := newFake(example())
	tree := mount(t, source, fsview.Options{})
	vm := filepath.Join(tree.Dir(), "vm1")
	folder, err := unix.Open(vm, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(folder)
	buf := make([]byte, 100)
	for _, test := range []struct {
		name string
		read func() (string, error)
	}{
		{"by its path", func() (string, error) {
			text, err := os.ReadFile(filepath.Join(vm, "status"))
			return string(text), err
		}},
		{"in an open folder", func() (string, error) { // nothing need be looked up
			fd, err := unix.Openat(folder, "status", unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				return "", err
			}
			defer unix.Close(fd)
			n, err := unix.Read(fd, buf)
			return string(buf[:max(n, 0)]), err
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, status := range []vmstate.Status{vmstate.Migrating, vmstate.Running, vmstate.Paused, vmstate.Running} {
				open, err := os.Open(filepath.Join(vm, "pid"))
				if err != nil {
					t.Fatal(err)
				}
				defer open.Close()
				over, asked := make(chan struct{}), make(chan struct{}, 100)
				lull := func() <-chan struct{} {
					asked <- struct{}{}
					return over
				}
				source.lull.Store(&lull)
				read := make(chan string, 1)
				go func() {
					text, err := test.read()
					if err != nil {
						text = err.Error()
					}
					read <- text
				}()
				select {
				case <-asked:
				case text := <-read:
					t.Fatalf("it reads %q in the lull", text)
				}
				if n, err := open.Read(make([]byte, 100)); n == 0 || err != nil {
					t.Errorf("an open file gives %d bytes in the lull, %v", n, err)
				}
				next := example()
				next.VMs[0].Status = status
				source.snap.Store(next)
				source.lull.Store(nil)
				close(over)
				if got := <-read; got != string(status)+"\n" {
					t.Errorf("it reads %q, want %q", got, status)
				}
			}
		})
	}
}
