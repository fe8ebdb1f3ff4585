package record

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"qlive/vmstate"
)

// FileName of the record in a VM's folder.
const FileName = "vm.json"

// JournalOf is the journal of the VM with this folder.
func JournalOf(dir string) string { return filepath.Join(dir, "journal") }

// The format that this package writes, and the highest level that it reads.
const (
	formatName  = "qlive-vm"
	formatLevel = 1
)

// header comes first in the file.
type header struct {
	Format string `json:"format"`
	Level  int    `json:"level"`
}

type file struct {
	header
	VM
}

// Write replaces the record in a VM's folder. The caller is its only writer. The error is of kind Host.
func Write(dir string, vm VM) error {
	text, err := encode(file{header{formatName, formatLevel}, vm})
	if err != nil {
		return vmstate.Errorf(vmstate.Internal, "cannot write down %s: %w", vm.Spec.Name, err)
	}
	if err := replace(filepath.Join(dir, FileName), text); err != nil {
		return vmstate.Errorf(vmstate.Host, "cannot write down %s in the run directory: %w", vm.Spec.Name, err).With("make room in the run directory")
	}
	return nil
}

// replace replaces a file in one step.
func replace(path string, text []byte) error {
	next := path + ".new"
	err := os.WriteFile(next, text, 0o600)
	if err == nil {
		err = os.Rename(next, path)
	}
	if err != nil {
		return errors.Join(err, removeIfThere(next))
	}
	return nil
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

func encode(v any) ([]byte, error) {
	var text bytes.Buffer
	enc := json.NewEncoder(&text)
	enc.SetEscapeHTML(false) // people read this
	enc.SetIndent("", "  ")
	err := enc.Encode(v)
	return text.Bytes(), err
}

// Read reads the record in a VM's folder. The error is fs.ErrNotExist if there is none, of kind Unsupported if a newer qlive wrote it, and else
// of kind Host.
func Read(dir string) (VM, error) {
	path := filepath.Join(dir, FileName)
	text, err := os.ReadFile(path)
	if err != nil {
		return VM{}, vmstate.Errorf(vmstate.Host, "cannot read what was written down of the VM: %w", err)
	}
	return decode(path, text)
}

// decode reads the text of a record; the name is for messages.
func decode(name string, text []byte) (VM, error) {
	broken := func(why error) (VM, error) {
		return VM{}, vmstate.Errorf(vmstate.Host, "cannot read %s: %w", name, why).
			With("find out who changed the file; the VM's QEMU, if it runs, is left alone meanwhile")
	}
	var h header
	if err := json.Unmarshal(text, &h); err != nil {
		return broken(err)
	}
	if h.Format != formatName {
		return broken(fmt.Errorf("its format is %q, and should be %q", h.Format, formatName))
	}
	if h.Level < 1 || h.Level > formatLevel {
		return VM{}, vmstate.Errorf(vmstate.Unsupported, "cannot read %s: it has format level %d, and this qlive reads up to %d", name, h.Level, formatLevel).
			With("start the version of qlive that wrote it, or a newer one")
	}
	var f file
	if err := json.Unmarshal(text, &f); err != nil {
		return broken(err)
	}
	if err := f.check(); err != nil {
		return broken(err)
	}
	return f.VM, nil
}

// check finds what a whole file cannot lack.
func (v *VM) check() error {
	if err := vmstate.CheckName(v.Spec.Name); err != nil {
		return err
	}
	seen := make(map[int]bool)
	for _, g := range v.Generations {
		switch {
		case g.Line == nil || !filepath.IsAbs(g.Dir):
			return fmt.Errorf("generation %d lacks its command line or its folder", g.Number)
		case seen[g.Number]:
			return fmt.Errorf("there are two generations %d", g.Number)
		case g.Number < 0 || g.Number >= v.Next:
			return fmt.Errorf("there is a generation %d, and the next one would be %d", g.Number, v.Next)
		}
		seen[g.Number] = true
	}
	if v.Current != None && !seen[v.Current] {
		return fmt.Errorf("generation %d has the guest, and is not there", v.Current)
	}
	return nil
}
