package room

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"qlive/vmstate"
)

func TestString(t *testing.T) {
	for _, test := range []struct {
		name string
		room Room
		want string
	}{
		{"full", Room{0, 2 << 20, 0, 512}, "0 B of 2 MiB and 0 of 512 files are free"},
		{"fractions", Room{1536, 5 << 30, 3, 9}, "1.5 KiB of 5 GiB and 3 of 9 files are free"},
		{"files not counted", Room{1 << 40, 1 << 50, 0, 0}, "1 TiB of 1 PiB are free"},
		{"the largest", Room{1<<64 - 1, 1<<64 - 1, 0, 0}, "16 EiB of 16 EiB are free"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := test.room.String(); got != test.want {
				t.Errorf("%q, want %q", got, test.want)
			}
		})
	}
}

func TestHas(t *testing.T) {
	r := Room{FreeBytes: 100, TotalBytes: 200, FreeFiles: 5, TotalFiles: 10}
	for _, test := range []struct {
		name         string
		room         Room
		bytes, files uint64
		want         bool
	}{
		{"just", r, 100, 5, true},
		{"a byte too many", r, 101, 5, false},
		{"a file too many", r, 100, 6, false},
		{"files not counted", Room{FreeBytes: 100}, 100, 6, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := test.room.Has(test.bytes, test.files); got != test.want {
				t.Errorf("%v", got)
			}
		})
	}
}

func TestExplain(t *testing.T) {
	dir := t.TempDir()
	if err := Explain(dir, nil); err != nil {
		t.Errorf("nothing is explained as %v", err)
	}
	if err := Explain(dir, fs.ErrExist); err != fs.ErrExist {
		t.Errorf("another error becomes %v", err)
	}
	for _, errno := range []unix.Errno{unix.ENOSPC, unix.EDQUOT} {
		cause := vmstate.Errorf(vmstate.Host, "cannot write: %w", &fs.PathError{Op: "write", Path: "x", Err: errno})
		cause.VM = "vm1"
		err := Explain(dir, fmt.Errorf("cannot start: %w", cause))
		e, ok := errors.AsType[*vmstate.Error](err)
		if !ok || e.Kind != vmstate.Exhausted || e.VM != "vm1" || e.Remedy == "" || !errors.Is(err, errno) {
			t.Errorf("%v is explained as %#v", errno, err)
		}
		if !strings.Contains(err.Error(), "files are free") && !strings.Contains(err.Error(), "are free") || !strings.Contains(err.Error(), dir) {
			t.Errorf("no numbers in %q", err)
		}
	}
}

func TestNeed(t *testing.T) {
	dir := t.TempDir()
	if err := Need(dir, 1, 1, "start vm1"); err != nil {
		t.Error(err)
	}
	err := Need(dir, 1<<62, 1, "start vm1")
	if vmstate.KindOf(err) != vmstate.Exhausted || !strings.HasPrefix(err.Error(), "cannot start vm1: on the file system of "+dir) || !strings.Contains(err.Error(), "4 EiB") {
		t.Errorf("%v", err)
	}
	if err := Need(dir+"/not-there", 1, 1, "start vm1"); vmstate.KindOf(err) != vmstate.Host {
		t.Errorf("%v", err)
	}
}
