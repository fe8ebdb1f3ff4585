package record

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"qlive/vmstate"
)

// migrationsDir is the folder of a VM's migrations, below its own: a file ID.json for each.
const migrationsDir = "migrations"

// keptMigrations is how many of them are kept of a VM.
const keptMigrations = 64

// The format of a migration's file.
const (
	migrationFormat = "qlive-migration"
	migrationLevel  = 1
)

type migrationFile struct {
	header
	Key       vmstate.RequestKey `json:"request,omitzero"`
	Migration vmstate.Migration  `json:"migration"`
}

// WriteMigration writes down what is known of a migration, when it is accepted and when it has ended: more than the journal says, which alone
// decides. The oldest files beyond a number go. The error is of kind Host.
func WriteMigration(dir string, m vmstate.Migration) error {
	f := migrationFile{header: header{migrationFormat, migrationLevel}, Migration: m}
	if m.Spec != nil {
		f.Key = m.Spec.Key
	}
	text, err := encode(f)
	if err != nil {
		return vmstate.Errorf(vmstate.Internal, "cannot write down migration %s: %w", m.ID, err)
	}
	dir = filepath.Join(dir, migrationsDir)
	err = os.MkdirAll(dir, 0o700)
	if err == nil {
		err = replace(filepath.Join(dir, m.ID+".json"), text)
	}
	if err == nil {
		err = trim(dir)
	}
	if err != nil {
		return vmstate.Errorf(vmstate.Host, "cannot write down migration %s in the run directory: %w", m.ID, err).With("make room in the run directory")
	}
	return nil
}

// trim removes the oldest migrations: ids begin with the time.
func trim(dir string) error {
	files, err := migrationFiles(dir)
	if err != nil || len(files) <= keptMigrations {
		return err
	}
	var errs []error
	for _, path := range files[:len(files)-keptMigrations] {
		errs = append(errs, os.Remove(path))
	}
	return errors.Join(errs...)
}

// migrationFiles are the files of a folder of migrations, oldest first.
func migrationFiles(dir string) ([]string, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	slices.Sort(files)
	return files, err
}

// ReadMigrations reads what was written down of a VM's migrations, oldest first. What cannot be read is left out, and the error says so: it is no
// reason not to take up the VM.
func ReadMigrations(dir string) ([]vmstate.Migration, error) {
	files, err := migrationFiles(filepath.Join(dir, migrationsDir))
	if err != nil {
		return nil, vmstate.Errorf(vmstate.Internal, "cannot look for migrations in %s: %w", dir, err)
	}
	var list []vmstate.Migration
	var errs []error
	for _, path := range files {
		text, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		var m vmstate.Migration
		if err == nil {
			m, err = decodeMigration(text)
		}
		if err != nil {
			errs = append(errs, vmstate.Errorf(vmstate.Host, "cannot read %s: %w", path, err))
			continue
		}
		list = append(list, m)
	}
	return list, errors.Join(errs...)
}

func decodeMigration(text []byte) (vmstate.Migration, error) {
	var f migrationFile
	if err := json.Unmarshal(text, &f); err != nil {
		return vmstate.Migration{}, err
	}
	if f.Format != migrationFormat || f.Level < 1 || f.Level > migrationLevel || f.Migration.ID == "" {
		return vmstate.Migration{}, fmt.Errorf("its format is %q, level %d, and should be %q, level %d", f.Format, f.Level, migrationFormat, migrationLevel)
	}
	if f.Migration.Spec != nil {
		f.Migration.Spec.Key = f.Key
	}
	return f.Migration, nil
}
