package logfile_test

import (
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"qlive/vmstate/logfile"
)

func TestOpen(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.WriteFile(at("plain"), []byte("text"), 0o600))
	must(os.WriteFile(at("removed"), nil, 0o600))
	must(os.WriteFile(at("precious"), []byte("secret"), 0o600))
	must(os.Symlink(at("precious"), at("symlink")))
	must(os.Symlink("/no/such", at("dangling")))
	must(os.Link(at("precious"), at("link")))
	must(unix.Mkfifo(at("fifo"), 0o600))
	must(os.Mkdir(at("folder"), 0o700))
	must(unix.Mknod(at("device"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 5)))) // /dev/zero
	l, err := net.Listen("unix", at("socket"))
	must(err)
	defer l.Close()
	must(os.Remove(at("removed")))

	for name, text := range map[string]string{
		"plain": "text", "removed": "", "symlink": "", "dangling": "", "link": "", "precious": "", "fifo": "", "folder": "", "device": "", "socket": "", "plain/x": "",
	} {
		t.Run(name, func(t *testing.T) {
			if info := logfile.Stat(at(name)); info.Begin != 0 || info.Size() != int64(len(text)) || (text == "") != info.Changed.IsZero() {
				t.Errorf("%+v", info)
			}
			f, err := logfile.Open(at(name))
			if text == "" {
				if err == nil {
					f.Close()
				}
				if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTDIR) {
					t.Errorf("opened: %v", err)
				}
				return
			}
			must(err)
			defer f.Close()
			if got, err := io.ReadAll(f); err != nil || string(got) != text {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
}

func TestOpenWaitsForNobody(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := logfile.Open(path)
		done <- err
	}()
	select {
	case err := <-done:
		if !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("opened: %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("it waits for a writer")
	}
}
