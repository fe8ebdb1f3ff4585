package logfile_test

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"qlive/vmstate/logfile"
)

// memory is a folder on a tmpfs, as the run directory is.
func memory(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "logfile")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// However a text grows and is trimmed: its newest bytes are there as they were written, and little more than that takes memory.
func TestTrim(t *testing.T) {
	const chunk = 64 << 10
	dir := memory(t)
	n := 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		keep := int64(rapid.IntRange(0, 5*chunk).Draw(t, "keep"))
		var paths []string
		var all []byte
		next := byte(1)
		for range rapid.IntRange(1, 6).Draw(t, "steps") {
			if len(paths) == 0 || rapid.Bool().Draw(t, "next file") {
				paths = append(paths, filepath.Join(dir, string(rune('a'+len(paths)))+"-"+string(rune('0'+n%10))))
				if err := os.WriteFile(paths[len(paths)-1], nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			text := bytes.Repeat([]byte{next}, rapid.IntRange(0, 4*chunk).Draw(t, "bytes"))
			next++
			f, err := os.OpenFile(paths[len(paths)-1], os.O_WRONLY|os.O_APPEND, 0)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.Write(text); err != nil {
				t.Fatal(err)
			}
			f.Close()
			all = append(all, text...)
			if err := logfile.Trim(paths, keep); err != nil {
				t.Fatal(err)
			}
		}
		var left []byte
		var blocks int64
		for _, path := range paths {
			info := logfile.Stat(path)
			text, err := os.ReadFile(path)
			if err != nil || int64(len(text)) != info.End {
				t.Fatalf("%d bytes, %+v, %v", len(text), info, err)
			}
			left = append(left, text[info.Begin:]...)
			var st unix.Stat_t
			if err := unix.Stat(path, &st); err != nil {
				t.Fatal(err)
			}
			blocks += st.Blocks * 512
		}
		if !bytes.HasSuffix(all, left) || int64(len(left)) < min(keep, int64(len(all))) {
			t.Fatalf("%d bytes are left of %d, to keep are %d", len(left), len(all), keep)
		}
		// In the last file a chunk may be begun, in the others that are kept in part as well.
		if most := keep + int64(len(paths))*chunk; blocks > most+int64(len(paths))*4096 {
			t.Fatalf("%d bytes of memory, to keep are %d in %d files", blocks, keep, len(paths))
		}
		for _, path := range slices.Compact(paths) {
			os.Remove(path)
		}
	})
}

func TestTrimFollowsNoLink(t *testing.T) {
	dir := memory(t)
	precious, link := filepath.Join(dir, "precious"), filepath.Join(dir, "link")
	if err := os.WriteFile(precious, bytes.Repeat([]byte("x"), 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(precious, link); err != nil {
		t.Fatal(err)
	}
	if err := logfile.Trim([]string{link}, 0); err != nil {
		t.Error(err)
	}
	if info := logfile.Stat(precious); info.Begin != 0 || info.Size() != 1<<20 {
		t.Errorf("the file behind the link: %+v", info)
	}
}

func TestTrimOfNothing(t *testing.T) {
	if err := logfile.Trim([]string{filepath.Join(t.TempDir(), "none")}, 0); err != nil {
		t.Error(err)
	}
}
