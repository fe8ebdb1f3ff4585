package qemu_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"qlive/internal/qemu"
	"qlive/internal/qemu/cmdline"
	"qlive/vmstate"
)

// What is in a file of options counts like the command line, and is kept.
func TestLearnReadConfig(t *testing.T) {
	dir := t.TempDir()
	info := &qemu.Info{Machines: []cmdline.Machine{{Name: "pc-i440fx-7.2", Default: true, RAMID: "pc.ram"}, {Name: "pc-q35-7.2", Alias: "q35", RAMID: "pc.ram"}}}
	const text = "[machine]\ntype = \"q35\"\n\n[object \"m\"]\nqom-type = \"memory-backend-file\"\nmem-path = \"ram\"\nsize = \"1G\"\n"
	if err := os.WriteFile(filepath.Join(dir, "vm.cfg"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	facts, err := qemu.Learn([]string{"-readconfig", "vm.cfg"}, dir, info)
	if err != nil {
		t.Fatal(err)
	}
	_, looked := facts.Paths["ram"]
	if facts.Machine.Name != "pc-q35-7.2" || facts.Configs["vm.cfg"] != text || !looked {
		t.Errorf("learned %+v", facts)
	}
}

func TestLearnReadConfigRefused(t *testing.T) {
	dir := t.TempDir()
	for name, make := range map[string]func(path string) error{
		"missing": func(string) error { return nil },
		"folder":  func(path string) error { return os.Mkdir(path, 0o700) },
		"fifo":    func(path string) error { return unix.Mkfifo(path, 0o600) },
		"large":   func(path string) error { return os.WriteFile(path, []byte(strings.Repeat("#\n", 1<<20)), 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			if err := make(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
			_, err := qemu.Learn([]string{"-readconfig", name}, dir, &qemu.Info{})
			if p := vmstate.ProblemOf(err); err == nil || p.Kind() != vmstate.Invalid || p.Remedy == "" {
				t.Errorf("got %v", err)
			}
		})
	}
}
