package proc_test

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"qlive/internal/proc"
)

func TestParseUnixSockets(t *testing.T) {
	const head = "Num       RefCount Protocol Flags    Type St Inode Path\n"
	for line, want := range map[string]proc.UnixSocket{
		"0000000000000000: 00000002 00000000 00010000 0001 01 26012 /run/a b.sock": {Listening: true, Inode: 26012, Path: "/run/a b.sock"},
		"0000000000000000: 00000003 00000000 00000000 0001 03 26013 /run/q":        {Connected: true, Inode: 26013, Path: "/run/q"},
		"0000000000000000: 00000003 00000000 00000000 0001 02 0 /run/q":            {Path: "/run/q"},
		"ffff9c3a00000000: 00000002 00000000 00000000 0002 01 7":                   {Inode: 7},
		"0000000000000000: 00000002 00000000 00010000 0001 01 8 @abstract":         {Listening: true, Inode: 8, Path: "@abstract"},
	} {
		got, err := proc.ParseUnixSockets(strings.NewReader(head + line + "\n"))
		if err != nil || len(got) != 1 || got[0] != want {
			t.Errorf("%q:\n got %+v\nwant %+v; %v", line, got, want, err)
		}
	}
	for _, line := range []string{"x", "1: 2 3 4 5 6", "1: 2 3 z 1 01 7", "1: 2 3 4 1 zz 7", "1: 2 3 4 1 01 0x7"} {
		if got, err := proc.ParseUnixSockets(strings.NewReader(head + line + "\n")); err == nil {
			t.Errorf("%q is %+v", line, got)
		}
	}
}

func TestReadUnixSockets(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	list, err := proc.ReadUnixSockets(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	waiting := proc.UnixSocket{Path: path}
	if !slices.ContainsFunc(list, func(u proc.UnixSocket) bool { return u.Path == path && u.Listening && u.Inode != 0 }) || !slices.Contains(list, waiting) {
		t.Errorf("the sockets at %s are not among %+v", path, list)
	}
}

func FuzzParseUnixSockets(f *testing.F) {
	f.Add("Num       RefCount Protocol Flags    Type St Inode Path\n0000000000000000: 00000002 00000000 00010000 0001 01 26012 /run/a\n")
	f.Add("0000000000000000: 00000003 00000000 00000000 0001 03 0\n")
	f.Fuzz(func(t *testing.T, text string) {
		if list, err := proc.ParseUnixSockets(strings.NewReader(text)); err != nil && list != nil {
			t.Errorf("%+v beside %v", list, err)
		}
	})
}
