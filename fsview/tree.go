package fsview

import (
	"strings"
	"time"

	"qlive/vmstate"
)

// A moment is the tree at one instant.
type moment struct {
	snap     *vmstate.Snapshot
	now      time.Time
	refusals *refusals
}

// What can stand at a path: a folder, or one of the four sorts of files.
type (
	// folder is a place with names in it.
	folder interface {
		child(name string) (any, bool)
		each(yield func(name string, isFolder bool))
	}
	text    func() string // a value, rendered when called; empty means none
	logText []string      // the text of these files on the host, one after the other
	control string        // takes commands for the VM of this name
	stream  struct{}      // the events
)

// at finds what stands at path, whose parts are separated by slashes; the empty path is the root.
func (m moment) at(path string) (any, bool) {
	var here any = root{m}
	for path != "" {
		var name string
		name, path, _ = strings.Cut(path, "/")
		dir, ok := here.(folder)
		if !ok {
			return nil, false
		}
		if here, ok = dir.child(name); !ok {
			return nil, false
		}
	}
	return here, true
}

// A field is a file whose text is computed from a T.
type field[T any] struct {
	name  string
	value func(T) string
}

func pick[T any](fields []field[T], subject T, name string) (any, bool) {
	for _, f := range fields {
		if f.name == name {
			return text(func() string { return f.value(subject) }), true
		}
	}
	return nil, false
}

func names[T any](fields []field[T], yield func(string, bool)) {
	for _, f := range fields {
		yield(f.name, false)
	}
}

// root is the tree's root. Names of VMs cannot clash with its own: vmstate.CheckName reserves these.
type root struct{ moment }

func (r root) child(name string) (any, bool) {
	switch name {
	case "events":
		return stream{}, true
	case "migrations":
		return migrationsFolder(r), true
	}
	if value, ok := pick(rootFields(), r.snap, name); ok {
		return value, true
	}
	if vm := findVM(r.snap, name); vm != nil {
		return vmFolder{r.moment, vm}, true
	}
	return nil, false
}

func (r root) each(yield func(string, bool)) {
	names(rootFields(), yield)
	yield("events", false)
	yield("migrations", true)
	for i := range r.snap.VMs {
		yield(r.snap.VMs[i].Name, true)
	}
}

// migrationsFolder has a folder for each migration.
type migrationsFolder struct{ moment }

func (f migrationsFolder) child(name string) (any, bool) {
	for i := range f.snap.Migrations {
		if m := &f.snap.Migrations[i]; fileName(m.ID) == name {
			return migrationFolder{m, nil}, true
		}
	}
	return nil, false
}

func (f migrationsFolder) each(yield func(string, bool)) {
	for i := range f.snap.Migrations {
		yield(fileName(f.snap.Migrations[i].ID), true)
	}
}

// vmFolder is a VM.
type vmFolder struct {
	moment
	vm *vmstate.VM
}

func (f vmFolder) child(name string) (any, bool) {
	switch name {
	case "ctl":
		return control(f.vm.Name), true
	case "console":
		return logText(f.vm.ConsoleLog), true
	case "qemu_log":
		return logText(f.vm.QEMULog), true
	case "regions":
		return regionsFolder{f.vm}, true
	case "migration":
		m := findMigration(f.snap, f.vm.Migration)
		return migrationFolder{m, f.refusals.of(f.vm, m)}, true
	}
	return pick(vmFields(), vmNow{f.vm, f.now}, name)
}

func (f vmFolder) each(yield func(string, bool)) {
	names(vmFields(), yield)
	yield("ctl", false)
	yield("console", false)
	yield("qemu_log", false)
	yield("regions", true)
	yield("migration", true)
}

// regionsFolder has a folder for each region of a VM's RAM.
type regionsFolder struct{ vm *vmstate.VM }

func (f regionsFolder) child(name string) (any, bool) {
	for i := range f.vm.Regions {
		if r := &f.vm.Regions[i]; fileName(r.Name) == name {
			return regionFolder{r}, true
		}
	}
	return nil, false
}

func (f regionsFolder) each(yield func(string, bool)) {
	for i := range f.vm.Regions {
		yield(fileName(f.vm.Regions[i].Name), true)
	}
}

// regionFolder is a region.
type regionFolder struct{ region *vmstate.Region }

func (f regionFolder) child(name string) (any, bool)               { return pick(regionFields(), f.region, name) }
func (f regionFolder) each(yield func(name string, isFolder bool)) { names(regionFields(), yield) }

// migrationFolder is a migration, nil if there is none, and what its VM has refused since.
type migrationFolder struct {
	*vmstate.Migration
	refused *refusal
}

func (f migrationFolder) child(name string) (any, bool) { return pick(migrationFields(), f, name) }
func (f migrationFolder) each(yield func(name string, isFolder bool)) {
	names(migrationFields(), yield)
}

// findVM is the VM of that name, nil if there is none. It copies nothing.
func findVM(s *vmstate.Snapshot, name string) *vmstate.VM {
	for i := range s.VMs {
		if s.VMs[i].Name == name {
			return &s.VMs[i]
		}
	}
	return nil
}

func findMigration(s *vmstate.Snapshot, id string) *vmstate.Migration {
	for i := range s.Migrations {
		if id != "" && s.Migrations[i].ID == id {
			return &s.Migrations[i]
		}
	}
	return nil
}
