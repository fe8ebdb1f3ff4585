package atomicfile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// OS is what writing a file asks of the system, so that a test can fail each call.
type OS interface {
	// CreateTemp makes a file of its own for the caller in dir, readable by nobody else. In pattern the last * is
	// replaced by something that makes the name new.
	CreateTemp(dir, pattern string) (File, error)
	Rename(from, to string) error
	Remove(path string) error
	// SyncDir makes the names in dir outlive the host.
	SyncDir(dir string) error
}

// File is a file that is being written.
type File interface {
	io.WriteCloser
	Name() string
	Chmod(mode fs.FileMode) error
	Sync() error
}

// Write replaces the content of path, and makes the file if it is not there. On an error path has its old content, or
// its new one if the folder could not be synced after the renaming, and no temporary file is left.
func Write(path string, content []byte, mode fs.FileMode) error {
	return WriteOn(system{}, path, content, mode)
}

// WriteOn is [Write] on another system.
func WriteOn(sys OS, path string, content []byte, mode fs.FileMode) error {
	dir, name := filepath.Split(path)
	if dir == "" {
		dir = "."
	}
	temp, err := writeTemp(sys, dir, name, content, mode)
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	if err := sys.Rename(temp, path); err != nil {
		return fmt.Errorf("cannot write %s: %w", path, errors.Join(err, sys.Remove(temp)))
	}
	if err := sys.SyncDir(dir); err != nil {
		return fmt.Errorf("cannot make sure that %s will outlive the host: %w", path, err)
	}
	return nil
}

// writeTemp writes a temporary file to its end and tells its name. It leaves none on an error.
func writeTemp(sys OS, dir, name string, content []byte, mode fs.FileMode) (string, error) {
	file, err := sys.CreateTemp(dir, "."+name+".*.tmp")
	if err != nil {
		return "", err
	}
	_, err = file.Write(content)
	if err == nil {
		err = file.Chmod(mode)
	}
	if err == nil {
		err = file.Sync()
	}
	err = errors.Join(err, file.Close())
	if err != nil {
		return "", errors.Join(err, sys.Remove(file.Name()))
	}
	return file.Name(), nil
}

// Remove removes path so that it is gone for good, also if the host loses its power. A path that is not there is no error.
func Remove(path string) error {
	if err := os.Remove(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return fmt.Errorf("cannot remove %s: %w", path, err)
	}
	if err := (system{}).SyncDir(filepath.Dir(path)); err != nil {
		return fmt.Errorf("cannot make sure that %s stays removed: %w", path, err)
	}
	return nil
}

// Sweep removes the temporary files that a crash left in dir. Nobody may be writing there.
func Sweep(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("cannot look for temporary files: %w", err)
	}
	var errs []error
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") && strings.HasSuffix(e.Name(), ".tmp") && e.Type().IsRegular() {
			errs = append(errs, os.Remove(filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(errs...)
}

// system is the operating system.
type system struct{}

func (system) CreateTemp(dir, pattern string) (File, error) {
	f, err := os.CreateTemp(dir, pattern)
	if err != nil {
		return nil, err
	}
	return f, nil
}
func (system) Rename(from, to string) error { return os.Rename(from, to) }
func (system) Remove(path string) error     { return os.Remove(path) }

func (system) SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
