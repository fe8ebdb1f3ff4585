package env

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// cacheOf makes a cache and a firmware folder with everything but what is left out.
func cacheOf(t *testing.T, without ...string) (cache, firmware string) {
	t.Helper()
	top := t.TempDir()
	files := []string{"kernel/vmlinuz", "OVMF/OVMF_CODE_4M.fd", "OVMF/OVMF_VARS_4M.fd"}
	for _, v := range Versions() {
		files = append(files, "qemu/"+v+"/qemu-system-x86_64")
	}
	for _, file := range files {
		if !slices.Contains(without, file) {
			write(t, filepath.Join(top, file), "x", 0o755)
		}
	}
	return top, filepath.Join(top, "OVMF")
}

func write(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

func TestLocateComplete(t *testing.T) {
	cache, firmware := cacheOf(t)
	e, err := locate(cache, firmware)
	if err != nil {
		t.Fatal(err)
	}
	if got := e.Found(); !slices.Equal(got, Versions()) {
		t.Errorf("found %v, want %v", got, Versions())
	}
	for _, path := range []string{e.Kernel, e.OVMFCode, e.OVMFVars, e.QEMU(Installed), e.QEMU(Newest)} {
		if _, err := os.Stat(path); err != nil || !filepath.IsAbs(path) {
			t.Errorf("%q is not the absolute path of a file: %v", path, err)
		}
	}
	if got := e.QEMU("1.0"); got != "" {
		t.Errorf("QEMU 1.0 is said to be %q", got)
	}
}

func TestLocateNamesWhatIsMissing(t *testing.T) {
	newest := "qemu/" + Newest + "/qemu-system-x86_64"
	tests := []struct {
		name    string
		without []string
		spoil   func(t *testing.T, cache string)
		names   []string
		why     string
	}{
		{
			name:    "one QEMU",
			without: []string{newest},
			names:   []string{"QEMU " + Newest},
			why:     "no such file or directory",
		},
		{
			name:    "several parts",
			without: []string{newest, "kernel/vmlinuz", "OVMF/OVMF_VARS_4M.fd"},
			names:   []string{"QEMU " + Newest, "the guest's kernel", "UEFI variables"},
			why:     "no such file or directory",
		},
		{
			name: "a QEMU that cannot be executed",
			spoil: func(t *testing.T, cache string) {
				if err := os.Chmod(filepath.Join(cache, newest), 0o644); err != nil {
					t.Fatal(err)
				}
			},
			names: []string{"QEMU " + Newest},
			why:   "not executable",
		},
		{
			name:    "a link to nothing",
			without: []string{newest},
			spoil: func(t *testing.T, cache string) {
				path := filepath.Join(cache, newest)
				if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.Symlink("/nonexistent", path)); err != nil {
					t.Fatal(err)
				}
			},
			names: []string{"QEMU " + Newest},
			why:   "no such file or directory",
		},
		{
			name:    "an empty kernel",
			without: []string{"kernel/vmlinuz"},
			spoil:   func(t *testing.T, cache string) { write(t, filepath.Join(cache, "kernel/vmlinuz"), "", 0o644) },
			names:   []string{"the guest's kernel"},
			why:     "empty",
		},
		{
			name:    "a folder for a kernel",
			without: []string{"kernel/vmlinuz"},
			spoil:   func(t *testing.T, cache string) { write(t, filepath.Join(cache, "kernel/vmlinuz/x"), "x", 0o644) },
			names:   []string{"the guest's kernel"},
			why:     "not a regular file",
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			cache, firmware := cacheOf(t, test.without...)
			if test.spoil != nil {
				test.spoil(t, cache)
			}
			e, err := locate(cache, firmware)
			var missing *MissingError
			if !errors.As(err, &missing) {
				t.Fatalf("error is %v, want a *MissingError", err)
			}
			var names []string
			for _, p := range missing.Parts {
				names = append(names, p.Name)
			}
			if !slices.Equal(names, test.names) {
				t.Errorf("missing are %v, want %v", names, test.names)
			}
			for _, want := range append(test.names, test.why, cache, "make setup", "QLIVE_CACHE") {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error does not say %q: %v", want, err)
				}
			}
			if e.QEMU(Installed) == "" {
				t.Error("what is there is not returned")
			}
		})
	}
}

func TestCacheDir(t *testing.T) {
	checkout := t.TempDir()
	write(t, filepath.Join(checkout, "go.mod"), "module qlive\n\ngo 1.26.8\n", 0o644)
	write(t, filepath.Join(checkout, "cmd/tool/main.go"), "package main\n", 0o644)
	// Another module inside: not ours, the search goes on above it.
	write(t, filepath.Join(checkout, "third/go.mod"), "module qlivery\n", 0o644)

	tests := []struct {
		name, env, wd, want, wantErr string
	}{
		{name: "set", env: "/some/where/", wd: "/", want: "/some/where"},
		{name: "set, relative", env: "where", wd: checkout, wantErr: "absolute"},
		{name: "root of the checkout", wd: checkout, want: checkout + "/.cache"},
		{name: "below it", wd: checkout + "/cmd/tool", want: checkout + "/.cache"},
		{name: "in another module below it", wd: checkout + "/third", want: checkout + "/.cache"},
		{name: "outside", wd: "/", wantErr: "set QLIVE_CACHE"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Setenv("QLIVE_CACHE", test.env)
			t.Chdir(test.wd)
			got, err := cacheDir()
			if test.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), test.wantErr) {
					t.Fatalf("got %q, %v; want an error saying %q", got, err, test.wantErr)
				}
				return
			}
			if err != nil || got != test.want {
				t.Errorf("got %q, %v; want %q", got, err, test.want)
			}
		})
	}
}
