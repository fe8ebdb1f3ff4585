package guest

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

// sources are the guest program and what it is made of, laid out as in the module.
//
//go:embed init/*.go wire/*.go pattern/*.go
var sources embed.FS

// within is where sources lie in the module that Build makes up for the compiler.
const within = "integration/guest"

// Build compiles the guest program and packs it, with modules, into an initramfs. It returns the
// path of the initramfs, in a folder of cacheDir that is named by the content, so that building
// again costs nothing and concurrent builds do not disturb each other. The guest loads the modules
// in the order given, before it comes up.
//
// It needs the go tool, but neither the network nor a checkout.
func Build(ctx context.Context, cacheDir string, modules ...Module) (initrd string, err error) {
	files, err := sourceFiles()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cacheDir, "guest", key(files, modules))
	initrd = filepath.Join(dir, "initramfs.cpio")
	if _, err := os.Stat(initrd); err == nil {
		return initrd, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("cannot create the guest's cache: %w", err)
	}
	program, err := compile(ctx, dir, files)
	if err != nil {
		return "", err
	}
	if err := writeFile(initrd, Initramfs(program, modules...)); err != nil {
		return "", fmt.Errorf("cannot write the initramfs: %w", err)
	}
	return initrd, nil
}

// Initramfs packs a guest program that was compiled already, with modules, into an initramfs.
func Initramfs(program []byte, modules ...Module) []byte {
	files := []file{
		{name: "dev", mode: modeDir | 0o755},
		{name: "dev/console", mode: modeChar | 0o600, rdev: [2]uint32{5, 1}},
		{name: "init", mode: modeRegular | 0o755, data: program},
	}
	if len(modules) > 0 {
		files = append(files, file{name: "modules", mode: modeDir | 0o755})
	}
	for i, m := range modules { // the guest loads them in the order of their names
		files = append(files, file{name: fmt.Sprintf("modules/%02d-%s.ko", i, m.Name), mode: modeRegular | 0o644, data: m.Data})
	}
	return cpio(files)
}

// sourceFiles returns the embedded sources without their tests, by their path in the module.
func sourceFiles() (map[string][]byte, error) {
	files := map[string][]byte{"go.mod": []byte("module qlive\n\ngo 1.26\n")}
	err := fs.WalkDir(sources, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasSuffix(path, "_test.go") {
			return err
		}
		data, err := sources.ReadFile(path)
		files[within+"/"+path] = data
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("cannot read the embedded sources of the guest: %w", err)
	}
	return files, nil
}

// key names a build by everything that goes into it.
func key(files map[string][]byte, modules []Module) string {
	h := sha256.New()
	add := func(name string, data []byte) { fmt.Fprintf(h, "%s %d\n%s", name, len(data), data) }
	add("compiler", []byte(runtime.Version()))
	for _, name := range sortedKeys(files) {
		add(name, files[name])
	}
	for _, m := range modules {
		add("module "+m.Name, m.Data)
	}
	return hex.EncodeToString(h.Sum(nil))[:16]
}

// compile compiles the guest program in a folder of its own below dir, and returns it.
func compile(ctx context.Context, dir string, files map[string][]byte) ([]byte, error) {
	work, err := os.MkdirTemp(dir, "build-")
	if err != nil {
		return nil, fmt.Errorf("cannot create a folder to compile the guest in: %w", err)
	}
	defer func() { _ = os.RemoveAll(work) }()
	for name, data := range files {
		path := filepath.Join(work, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return nil, fmt.Errorf("cannot lay out the guest's sources: %w", err)
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			return nil, fmt.Errorf("cannot lay out the guest's sources: %w", err)
		}
	}
	out := filepath.Join(work, "init.out")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", out, "./"+within+"/init")
	cmd.Dir = work
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64", "GOAMD64=v1", "GOFLAGS=", "GOWORK=off", "GOPROXY=off")
	if text, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("cannot compile the guest (is the go tool installed?): %w\n%s", err, text)
	}
	return os.ReadFile(out)
}

// writeFile puts a whole file at path or none.
func writeFile(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }()
	if _, err := f.Write(data); err != nil {
		_ = f.Close()
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Chmod(f.Name(), 0o644); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
