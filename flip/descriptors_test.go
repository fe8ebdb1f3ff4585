package flip

import (
	"bytes"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pair is a connected pair of sockets.
func pair(t *testing.T) (a, b *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]*net.UnixConn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "end")
		conn, err := net.FileConn(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		ends[i] = conn.(*net.UnixConn)
		if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
	}
	return ends[0], ends[1]
}

// memoryFiles makes a file for each name, which says it.
func memoryFiles(t *testing.T, names ...string) (files []*os.File) {
	t.Helper()
	for _, name := range names {
		f, err := os.CreateTemp(t.TempDir(), "block")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		if _, err := f.WriteString(name); err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	return files
}

const (
	cprTwo  = "QCPR\x00\x00\x00\x01\x01\x00\x00\x00\x08pc.bios\x00\x00\x00\x00\x00 \x01\x00\x00\x00\x07pc.rom\x00\x00\x00\x00\x00 \x00"
	cprMore = "\x05\x15CprState/vfio devices\x00\x00\x00\x01\x00"
)

// say is what a source does: each descriptor goes with the byte that stands for it.
func say(t *testing.T, conn *net.UnixConn, words string, files ...*os.File) {
	t.Helper()
	for _, f := range files {
		end := strings.Index(words, " ") + 1
		if _, _, err := conn.WriteMsgUnix([]byte(words[:end]), unix.UnixRights(int(f.Fd())), nil); err != nil {
			t.Error(err)
		}
		words = words[end:]
	}
	if _, err := conn.Write([]byte(words)); err != nil {
		t.Error(err)
	}
	if err := conn.CloseWrite(); err != nil {
		t.Error(err)
	}
}

func TestDescriptorsGoOn(t *testing.T) {
	for version, want := range map[string]string{"11.1.3": cprTwo + cprMore, "10.0.2": cprTwo} {
		t.Run("to "+version, func(t *testing.T) {
			source, from := pair(t)
			say(t, source, cprTwo+cprMore, memoryFiles(t, "pc.bios", "pc.rom")...)
			taken, err := takeDescriptors(from)
			if err != nil {
				t.Fatal(err)
			}
			defer taken.close()
			words, err := taken.words(version)
			if err != nil || string(words) != want {
				t.Fatalf("words %q, %v", words, err)
			}
			to, target := pair(t)
			if err := taken.give(to, words); err != nil {
				t.Fatal(err)
			}
			got, err := takeDescriptors(target)
			if err != nil {
				t.Fatal(err)
			}
			defer got.close()
			if !bytes.Equal(got.state.Bytes(), words) {
				t.Errorf("the target read %q", got.state.Bytes())
			}
			for i, d := range got.state.Descriptors() {
				text := make([]byte, 100)
				n, _ := got.files[i].ReadAt(text, 0) // io.EOF, since the file is shorter
				if string(text[:n]) != d.Name {
					t.Errorf("behind %s is the file of %q", d.Name, text[:n])
				}
			}
		})
	}
}

func TestDescriptorsThatDoNotFit(t *testing.T) {
	tests := map[string]struct {
		words string
		files int
		says  string
	}{
		"one is missing":  {cprTwo, 1, "speaks of 2 and gave 1"},
		"other words":     {"QEVM\x00\x00\x00\x03 ", 1, "no magic number"},
		"nothing is said": {"", 0, "no magic number"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			source, from := pair(t)
			files := memoryFiles(t, []string{"pc.bios", "pc.rom"}[:test.files]...)
			say(t, source, test.words, files...)
			if d, err := takeDescriptors(from); err == nil || !strings.Contains(err.Error(), test.says) || d != nil {
				t.Errorf("%v, %v", d, err)
			}
		})
	}
}
