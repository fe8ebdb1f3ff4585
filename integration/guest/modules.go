package guest

import (
	"bytes"
	"debug/elf"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Module is a kernel module that the guest loads before it comes up.
type Module struct {
	Name string // as in lsmod
	Data []byte // the .ko, not compressed
}

// VirtioModules are the names of the drivers with which the guest drives the virtio devices that it
// has: network card, disk, entropy source, balloon. (The driver that tells QEMU of a panic is
// "pvpanic_pci".)
func VirtioModules() []string {
	return []string{"virtio_pci", "virtio_net", "virtio_blk", "virtio_rng", "virtio_balloon"}
}

// Modules finds kernel modules by name anywhere below dir, together with the modules that they need,
// in an order in which they can be loaded. dir is what a kernel's package has in lib/modules; the
// modules must be the kernel's own, and not compressed. A name is written with '_' or '-' alike.
func Modules(dir string, names ...string) ([]Module, error) {
	paths := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if name, isModule := strings.CutSuffix(filepath.Base(path), ".ko"); err == nil && isModule && !d.IsDir() {
			paths[plain(name)] = path
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("cannot look for kernel modules: %w", err)
	}
	l := loader{dir: dir, paths: paths}
	for _, name := range names {
		if err := l.add(plain(name)); err != nil {
			return nil, err
		}
	}
	return l.order, nil
}

// plain is the form of a module's name in which it is looked up.
func plain(name string) string { return strings.ReplaceAll(name, "-", "_") }

// loader collects modules, each after those that it needs.
type loader struct {
	dir   string
	paths map[string]string
	seen  []string
	order []Module
}

func (l *loader) add(name string) error {
	if slices.Contains(l.seen, name) {
		return nil
	}
	l.seen = append(l.seen, name)
	path, ok := l.paths[name]
	if !ok {
		return fmt.Errorf("cannot find the kernel module %s below %s", name, l.dir)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("cannot read a kernel module: %w", err)
	}
	needs, err := dependencies(data)
	if err != nil {
		return fmt.Errorf("cannot read the kernel module %s: %w", path, err)
	}
	for _, need := range needs {
		if err := l.add(plain(need)); err != nil {
			return fmt.Errorf("%w, which %s needs", err, name)
		}
	}
	l.order = append(l.order, Module{Name: name, Data: data})
	return nil
}

// dependencies reads what a module needs from its section .modinfo: strings that end in a zero byte,
// one of which is "depends=a,b".
func dependencies(module []byte) ([]string, error) {
	file, err := elf.NewFile(bytes.NewReader(module))
	if err != nil {
		return nil, err
	}
	section := file.Section(".modinfo")
	if section == nil {
		return nil, fmt.Errorf("it has no section .modinfo")
	}
	info, err := section.Data()
	if err != nil {
		return nil, err
	}
	for entry := range strings.SplitSeq(string(info), "\x00") {
		if list, ok := strings.CutPrefix(entry, "depends="); ok {
			return strings.FieldsFunc(list, func(r rune) bool { return r == ',' }), nil
		}
	}
	return nil, nil
}
