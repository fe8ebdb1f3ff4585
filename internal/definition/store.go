package definition

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"qlive/internal/atomicfile"
	"qlive/internal/room"
	"qlive/vmstate"
)

const suffix = ".json"

// Store is the definitions of a state directory. Its methods may be called by several goroutines at once; of its directory it is the only
// writer.
type Store struct {
	dir string
	mu  sync.Mutex // held while a file is changed
}

// Dir is where the definitions of a state directory lie.
func Dir(stateDir string) string { return filepath.Join(stateDir, "vms") }

// Open is the store of a state directory, and removes what a crash left there half-written. With an error the store can be used all
// the same: its directory may be made later, when there is room.
func Open(stateDir string) (*Store, error) {
	s := &Store{dir: Dir(stateDir)}
	if err := s.make(); err != nil {
		return s, err
	}
	if err := atomicfile.Sweep(s.dir); err != nil {
		return s, vmstate.Errorf(vmstate.Host, "cannot clear the state directory: %w", err)
	}
	return s, nil
}

func (s *Store) make() error {
	if err := os.MkdirAll(s.dir, 0o700); err != nil { // a command line can hold secrets
		return room.Explain(filepath.Dir(s.dir), vmstate.Errorf(vmstate.Host, "cannot make the state directory %s: %w", s.dir, err))
	}
	return nil
}

// Path is the file of a VM's definition.
func (s *Store) Path(name string) string { return filepath.Join(s.dir, name+suffix) }

// Put writes a definition; when it returns nil the definition outlives the host. On an error the file is as it was. A file that
// cannot be read, such as one of a newer qlive, is not written over. The error is of kind Exhausted, with the numbers, if there is no room.
func (s *Store) Put(d Definition) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	path := s.Path(d.Spec.Name)
	if _, _, err := Read(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return s.write(d)
}

// write writes a definition. The caller holds mu.
func (s *Store) write(d Definition) error {
	path := s.Path(d.Spec.Name)
	text, err := encode(d)
	if err == nil {
		_, _, err = Parse(path, text) // nothing is written that could not be read
	}
	if err != nil {
		return err
	}
	if err := s.make(); err != nil {
		return err
	}
	if err := atomicfile.Write(path, text, 0o600); err != nil {
		return room.Explain(s.dir, vmstate.Errorf(vmstate.Host, "cannot keep the definition of %s: %w", d.Spec.Name, err))
	}
	return nil
}

func encode(d Definition) ([]byte, error) {
	var text bytes.Buffer
	enc := json.NewEncoder(&text)
	enc.SetEscapeHTML(false) // people read this
	enc.SetIndent("", "  ")
	if err := enc.Encode(fileOf(d)); err != nil {
		return nil, vmstate.Errorf(vmstate.Internal, "cannot write the definition of %s: %w", d.Spec.Name, err)
	}
	return text.Bytes(), nil
}

// Get reads a VM's definition. The error is fs.ErrNotExist, by errors.Is, if there is none.
func (s *Store) Get(name string) (Definition, error) {
	d, _, err := Read(s.Path(name))
	return d, err
}

// Update changes a VM's definition, if it has one.
func (s *Store) Update(name string, change func(*Definition)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, _, err := Read(s.Path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	change(&d)
	return s.write(d)
}

// Remove removes a VM's definition, whatever is in it; there may be none.
func (s *Store) Remove(name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := atomicfile.Remove(s.Path(name)); err != nil {
		return vmstate.Errorf(vmstate.Host, "cannot remove the definition of %s: %w", name, err)
	}
	return nil
}

// Found is what stands in one file.
type Found struct {
	Name       string // of the VM, as the file is called
	Path       string
	Definition Definition
	Level      int   // of the file
	Err        error // why there is no definition, and what to do about it
}

// Upgrade brings every file of an older level up to date, and gives what it could not.
func (s *Store) Upgrade() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	list, err := List(s.dir)
	errs := []error{err}
	for _, f := range list {
		if f.Err == nil && f.Level < formatLevel {
			errs = append(errs, s.write(f.Definition))
		}
	}
	return errors.Join(errs...)
}

// All reads every definition, by name.
func (s *Store) All() ([]Found, error) { return List(s.dir) }

// List reads every definition in a directory, by name, without changing anything; there are none if it does not exist. Files that are not
// called like a VM's definition are passed over.
func List(dir string) ([]Found, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, vmstate.Errorf(vmstate.Host, "cannot read the definitions: %w", err)
	}
	var list []Found
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), suffix)
		if !ok || vmstate.CheckName(name) != nil {
			continue
		}
		f := Found{Name: name, Path: filepath.Join(dir, e.Name())}
		if f.Definition, f.Level, f.Err = Read(f.Path); errors.Is(f.Err, fs.ErrNotExist) {
			continue // removed meanwhile
		}
		list = append(list, f)
	}
	return list, nil
}

// maxFile bounds what is read of a file, in bytes. A request has at most a MiB.
const maxFile = 8 << 20

// Read reads the definition at path; see [Parse].
func Read(path string) (Definition, int, error) {
	info, err := os.Lstat(path)
	if err == nil && (!info.Mode().IsRegular() || info.Size() > maxFile) {
		return Definition{}, 0, refuse(path, 0, errors.New("it is no regular file of at most 8 MiB"))
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return Definition{}, 0, vmstate.Errorf(vmstate.Host, "cannot read a definition: %w", err)
	}
	return Parse(path, text)
}
