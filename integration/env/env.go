package env

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// The versions of QEMU that set-up provides. Installed is Debian 12's own; the
// others lie unpacked in the cache.
const (
	Installed = "7.2.22"
	Backport  = "10.0.2"
	Stable    = "10.0.13"
	Newest    = "11.1.3"
)

// Versions are those that set-up provides, oldest first.
func Versions() []string { return []string{Installed, Backport, Stable, Newest} }

// Env holds absolute paths, each empty where the thing was not found.
type Env struct {
	Cache  string // the cache's folder, which need not exist
	Kernel string // a Linux bzImage for x86-64

	OVMFCode string // UEFI firmware, to be mapped read-only by every guest
	OVMFVars string // its variables, to be copied for each guest

	qemus map[string]string // path by version, only those found
}

// QEMU returns the path of that version's qemu-system-x86_64, empty if it was not
// found. It may be a script that execs the binary.
func (e Env) QEMU(version string) string { return e.qemus[version] }

// Found are the versions of QEMU that there are, oldest first.
func (e Env) Found() []string {
	return slices.DeleteFunc(Versions(), func(v string) bool { return e.qemus[v] == "" })
}

// MissingError names what Locate did not find.
type MissingError struct {
	Cache string
	Parts []Part
}

// Part is one thing that was not found.
type Part struct {
	Name string // as a person calls it
	Path string // where it was looked for
	Err  error  // why that would not do
}

// Error names every missing part, its place and the way out.
func (e *MissingError) Error() string {
	var b strings.Builder
	for i, p := range e.Parts {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%s (%s: %v)", p.Name, p.Path, p.Err)
	}
	return fmt.Sprintf("cannot find %s: run `make setup`, or set QLIVE_CACHE if the cache is not %s", b.String(), e.Cache)
}

// Locate finds what this machine has. If anything is missing the error is a
// *MissingError that names all of it, and the Env holds the rest all the same, for
// callers that can do with less. It looks at files and runs none: that a QEMU is the
// version its folder says has been seen to by set-up.
func Locate() (Env, error) {
	cache, err := cacheDir()
	if err != nil {
		return Env{}, err
	}
	return locate(cache, "/usr/share/OVMF")
}

func locate(cache, firmware string) (Env, error) {
	e := Env{Cache: cache, qemus: make(map[string]string)}
	missing := &MissingError{Cache: cache}
	find := func(name, path string, wanted os.FileMode) string {
		if err := usable(path, wanted); err != nil {
			missing.Parts = append(missing.Parts, Part{Name: name, Path: path, Err: err})
			return ""
		}
		return path
	}
	for _, v := range Versions() {
		if path := find("QEMU "+v, filepath.Join(cache, "qemu", v, "qemu-system-x86_64"), 0o111); path != "" {
			e.qemus[v] = path
		}
	}
	e.Kernel = find("the guest's kernel", filepath.Join(cache, "kernel", "vmlinuz"), 0)
	e.OVMFCode = find("UEFI firmware", filepath.Join(firmware, "OVMF_CODE_4M.fd"), 0)
	e.OVMFVars = find("UEFI variables", filepath.Join(firmware, "OVMF_VARS_4M.fd"), 0)
	if len(missing.Parts) > 0 {
		return e, missing
	}
	return e, nil
}

// usable says why path is not a regular file, or a link to one, that has something
// in it and some of the wanted permissions.
func usable(path string, wanted os.FileMode) error {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		// The path is named beside it.
		var pathErr *os.PathError
		if errors.As(err, &pathErr) {
			return pathErr.Err
		}
		return err
	case !info.Mode().IsRegular():
		return errors.New("not a regular file")
	case info.Size() == 0:
		return errors.New("empty")
	case wanted != 0 && info.Mode().Perm()&wanted == 0:
		return errors.New("not executable")
	}
	return nil
}

// cacheDir is QLIVE_CACHE, else .cache of the checkout around the working directory
// or the executable.
func cacheDir() (string, error) {
	if dir := os.Getenv("QLIVE_CACHE"); dir != "" {
		if !filepath.IsAbs(dir) {
			return "", fmt.Errorf("cannot use QLIVE_CACHE=%s: give an absolute path", dir)
		}
		return filepath.Clean(dir), nil
	}
	var starts []string
	if wd, err := os.Getwd(); err == nil {
		starts = append(starts, wd)
	}
	if exe, err := os.Executable(); err == nil {
		starts = append(starts, filepath.Dir(exe))
	}
	for _, dir := range starts {
		if root := checkoutAround(dir); root != "" {
			return filepath.Join(root, ".cache"), nil
		}
	}
	return "", errors.New("cannot tell where the QEMUs and the kernel lie: run this in a checkout of qlive after `make setup`, or set QLIVE_CACHE")
}

// checkoutAround returns the nearest folder at or above dir whose go.mod is qlive's,
// empty if there is none.
func checkoutAround(dir string) string {
	for {
		if mod, err := os.ReadFile(filepath.Join(dir, "go.mod")); err == nil {
			if first, _, _ := strings.Cut(string(mod), "\n"); strings.TrimSpace(first) == "module qlive" {
				return dir
			}
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return ""
		}
		dir = parent
	}
}
