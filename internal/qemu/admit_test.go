package qemu_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"qlive/internal/qemu"
	"qlive/vmstate"
)

// write makes an executable file.
func write(t *testing.T, path, text string, mode os.FileMode) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil { // whatever the umask
		t.Fatal(err)
	}
	return path
}

// folder makes a folder of the mode.
func folder(t *testing.T, mode os.FileMode) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, mode); err != nil {
		t.Fatal(err)
	}
	return dir
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("cannot give files to other users: run this as root")
	}
}

func TestAdmit(t *testing.T) {
	needRoot(t)
	const nobody = 65534
	give := func(t *testing.T, path string, gid int) string {
		t.Helper()
		if err := os.Lchown(path, nobody, gid); err != nil {
			t.Fatal(err)
		}
		return path
	}
	link := func(t *testing.T, target, at string) string {
		t.Helper()
		if err := os.Symlink(target, at); err != nil {
			t.Fatal(err)
		}
		return at
	}
	const elf = "\x7fELF"
	tests := map[string]struct {
		path func(t *testing.T) string
		kind vmstate.Kind // empty: admitted
		says string
	}{
		"a program":          {func(t *testing.T) string { return write(t, folder(t, 0o755)+"/q", elf, 0o755) }, "", ""},
		"in a sticky folder": {func(t *testing.T) string { return write(t, folder(t, 0o777|os.ModeSticky)+"/q", elf, 0o755) }, "", ""},
		"a link": {func(t *testing.T) string {
			dir := folder(t, 0o755)
			return link(t, "q", write(t, dir+"/q", elf, 0o755)+".link")
		}, "", ""},
		"a script":          {func(t *testing.T) string { return write(t, folder(t, 0o755)+"/q", "#! /bin/sh -e\n", 0o755) }, "", ""},
		"in an open folder": {func(t *testing.T) string { return write(t, folder(t, 0o777)+"/q", elf, 0o755) }, vmstate.Denied, "others can write"},
		"below an open folder": {func(t *testing.T) string {
			dir := folder(t, 0o777) + "/bin"
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			return write(t, dir+"/q", elf, 0o755)
		}, vmstate.Denied, "others can write"},
		"writable by all":        {func(t *testing.T) string { return write(t, folder(t, 0o755)+"/q", elf, 0o757) }, vmstate.Denied, "others can write"},
		"of another user":        {func(t *testing.T) string { return give(t, write(t, folder(t, 0o755)+"/q", elf, 0o755), 0) }, vmstate.Denied, "belongs to the user 65534"},
		"folder of another user": {func(t *testing.T) string { return filepath.Dir(give(t, folder(t, 0o755), 0)) + "/x/../q" }, vmstate.Invalid, "plain absolute"},
		"writable by its group": {func(t *testing.T) string {
			p := write(t, folder(t, 0o755)+"/q", elf, 0o775)
			if err := os.Lchown(p, 0, nobody); err != nil {
				t.Fatal(err)
			}
			return p
		}, vmstate.Denied, "others can write"},
		"writable by somebody on its access list": {func(t *testing.T) string {
			p := write(t, folder(t, 0o755)+"/q", elf, 0o755)
			// Version 2; owner rwx, user 65534 rw-, group r-x, mask rwx, others r-x (linux/posix_acl_xattr.h).
			acl := "\x02\x00\x00\x00" + "\x01\x00\x07\x00\xff\xff\xff\xff" + "\x02\x00\x06\x00\xfe\xff\x00\x00" +
				"\x04\x00\x05\x00\xff\xff\xff\xff" + "\x10\x00\x07\x00\xff\xff\xff\xff" + "\x20\x00\x05\x00\xff\xff\xff\xff"
			if err := unix.Setxattr(p, "system.posix_acl_access", []byte(acl), 0); err != nil {
				t.Fatal(err)
			}
			return p
		}, vmstate.Denied, "others can write"},
		"writable by root's group": {func(t *testing.T) string { return write(t, folder(t, 0o755)+"/q", elf, 0o775) }, "", ""},
		"link of another user": {func(t *testing.T) string {
			dir := folder(t, 0o777|os.ModeSticky)
			return give(t, link(t, write(t, dir+"/q", elf, 0o755), dir+"/l"), 0)
		}, vmstate.Denied, "belongs to the user"},
		"link into an open folder": {func(t *testing.T) string {
			return link(t, write(t, folder(t, 0o777)+"/q", elf, 0o755), folder(t, 0o755)+"/l")
		}, vmstate.Denied, "others can write"},
		"links in a circle": {func(t *testing.T) string {
			dir := folder(t, 0o755)
			link(t, "b", dir+"/a")
			return link(t, "a", dir+"/b")
		}, vmstate.Denied, "circle"},
		"link to nothing": {func(t *testing.T) string { return link(t, "nothing", folder(t, 0o755)+"/l") }, vmstate.NotFound, "does not exist"},
		"nothing":         {func(t *testing.T) string { return folder(t, 0o755) + "/q" }, vmstate.NotFound, "does not exist"},
		"below a file":    {func(t *testing.T) string { return write(t, folder(t, 0o755)+"/q", elf, 0o755) + "/q" }, vmstate.NotFound, "does not exist"},
		"a folder":        {func(t *testing.T) string { return folder(t, 0o755) }, vmstate.Denied, "no executable file"},
		"not executable":  {func(t *testing.T) string { return write(t, folder(t, 0o755)+"/q", elf, 0o644) }, vmstate.Denied, "no executable file"},
		"relative":        {func(*testing.T) string { return "bin/q" }, vmstate.Invalid, "plain absolute"},
		"empty":           {func(*testing.T) string { return "" }, vmstate.Invalid, "plain absolute"},
		"with dots":       {func(*testing.T) string { return "/bin/../bin/sh" }, vmstate.Invalid, "plain absolute"},
		"env":             {func(t *testing.T) string { return write(t, folder(t, 0o755)+"/q", "#!/usr/bin/env sh\n", 0o755) }, vmstate.Denied, "interpreter"},
		"no interpreter":  {func(t *testing.T) string { return write(t, folder(t, 0o755)+"/q", "#!\n", 0o755) }, vmstate.Denied, "interpreter"},
		"bad interpreter": {func(t *testing.T) string {
			return write(t, folder(t, 0o755)+"/q", "#!"+write(t, folder(t, 0o755)+"/i", elf, 0o777), 0o755)
		}, vmstate.Denied, "because of its interpreter"},
		"its own interpreter": {func(t *testing.T) string {
			p := folder(t, 0o755) + "/q"
			return write(t, p, "#!"+p+"\n", 0o755)
		}, vmstate.Denied, "interpreter has an interpreter"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			path := tt.path(t)
			b, err := qemu.Admit(path, nil)
			if tt.kind == "" {
				if err != nil {
					t.Fatal(err)
				}
				if b.Path != path || b.Real == "" || b.ID.Inode == 0 || b.Script != strings.HasPrefix(name, "a script") {
					t.Errorf("%+v", b)
				}
				if err := b.Unchanged(); err != nil {
					t.Error(err)
				}
				return
			}
			p := vmstate.ProblemOf(err)
			if err == nil || p.Kind() != tt.kind || !strings.Contains(p.Detail, tt.says) || !strings.HasPrefix(p.Detail, "cannot ") || p.Remedy == "" {
				t.Errorf("admitted %v, problem %+v, want %s with %q", b, p, tt.kind, tt.says)
			}
		})
	}
}

func TestInterpreterOf(t *testing.T) {
	long := strings.Repeat("x", 300)
	for head, want := range map[string]string{
		"":                               "-",
		"\x7fELF":                        "-",
		"#!":                             "",
		"#!/bin/sh":                      "/bin/sh",
		"#! \t/bin/sh -e\nexit":          "/bin/sh",
		"#!/bin/sh\r\n":                  "/bin/sh\r", // as the kernel has it: no such file
		"#!/bin/sh\u00a0-e\n":            "/bin/sh\u00a0-e",
		"#!/bin/sh\x00/bin/bash\n":       "/bin/sh",
		"#!\n/bin/sh\n":                  "",
		"#!/" + long:                     "",
		"#!/bin/sh " + long:              "/bin/sh",
		"#!/" + long[:200] + "\n" + long: "/" + long[:200],
	} {
		got, isScript := qemu.InterpreterOf([]byte(head))
		if !isScript {
			got += "-"
		}
		if got != want {
			t.Errorf("%.20q: %q, want %q", head, got, want)
		}
	}
}

func FuzzInterpreterOf(f *testing.F) {
	for _, head := range []string{"", "#!", "#!/bin/sh\n", "#! /bin/sh -e\n", "#!\t\x00\n", "\x7fELF", "#!" + strings.Repeat(" ", 300) + "/bin/sh"} {
		f.Add([]byte(head))
	}
	f.Fuzz(func(t *testing.T, head []byte) {
		path, isScript := qemu.InterpreterOf(head)
		if isScript && strings.ContainsAny(path, " \t\n\x00") || len(path) > 254 || isScript != strings.HasPrefix(string(head), "#!") {
			t.Errorf("%q, %t", path, isScript)
		}
	})
}

func TestPatterns(t *testing.T) {
	path := write(t, folder(t, 0o755)+"/qemu-system-x86_64", "\x7fELF", 0o755)
	dir := filepath.Dir(path)
	for _, tt := range []struct {
		name     string
		patterns []string
		kind     vmstate.Kind
	}{
		{"none", nil, ""},
		{"the path", []string{"/else", path}, ""},
		{"a pattern", []string{dir + "/qemu-system-*"}, ""},
		{"other", []string{"/usr/bin/qemu-system-*"}, vmstate.Denied},
		{"a star is no slash", []string{"/*"}, vmstate.Denied},
		{"rubbish", []string{"/[a"}, vmstate.Invalid},
		{"relative", []string{"qemu*"}, vmstate.Invalid},
	} {
		_, err := qemu.Admit(path, tt.patterns)
		if (err == nil) != (tt.kind == "") || err != nil && vmstate.KindOf(err) != tt.kind {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

func TestUnchanged(t *testing.T) {
	path := write(t, folder(t, 0o755)+"/q", "\x7fELF", 0o755)
	b, err := qemu.Admit(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	write(t, path+".new", "\x7fELF!", 0o755)
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
	if err := b.Unchanged(); vmstate.KindOf(err) != vmstate.Conflict {
		t.Errorf("another file at the path: %v", err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := b.Unchanged(); vmstate.KindOf(err) != vmstate.NotFound {
		t.Errorf("no file at the path: %v", err)
	}
}
