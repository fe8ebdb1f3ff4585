package qmp

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// Use is a command as this package speaks it: the Go types that make its arguments and take what it returns, nil for
// none. A field tagged since:"9.1" is known to QEMU from that version on, and sent or expected only there.
type Use struct {
	Command string
	Args    any
	Return  any
}

// Surface lists every command that this package speaks.
func Surface() []Use {
	return []Use{
		{"qmp_capabilities", capabilitiesArgs{}, nil},
		{"query-qmp-schema", nil, nil}, // it cannot describe itself: what it returns decodes, or does not
		{"query-version", nil, queryVersionReturn{}},
		{"query-status", nil, Status{}},
		{"stop", nil, nil},
		{"cont", nil, nil},
		{"system_reset", nil, nil},
		{"system_powerdown", nil, nil},
		{"quit", nil, nil},
		{"query-migrate", nil, Migration{}},
		{"migrate-set-capabilities", migrateCapabilitiesArgs{}, nil},
		{"query-migrate-capabilities", nil, []capabilityState{}},
		{"migrate-set-parameters", MigrateParameters{}, nil},
		{"query-migrate-parameters", nil, MigrateParameters{}},
		{"migrate", migrateArgs{}, nil},
		{"migrate-incoming", migrateIncomingArgs{}, nil},
		{"migrate_cancel", nil, nil},
		{"migrate-start-postcopy", nil, nil},
		{"xen-save-devices-state", xenSaveArgs{}, nil},
		{"getfd", fdnameArgs{}, nil},
		{"closefd", fdnameArgs{}, nil},
		{"add-fd", addFdArgs{}, AddedFd{}},
		{"remove-fd", removeFdArgs{}, nil},
		{"x-query-ramblock", nil, textReturn{}},
		{"query-memdev", nil, []MemoryBackend{}},
		{"query-memory-devices", nil, []MemoryDevice{}},
		{"query-machines", nil, []Machine{}},
		{"query-uuid", nil, uuidReturn{}},
		{"query-name", nil, nameReturn{}},
		{"query-vm-generation-id", nil, guidReturn{}},
		{"query-cpus-fast", nil, []CPU{}},
		{"query-hotpluggable-cpus", nil, []HotpluggableCPU{}},
		{"query-pci", nil, []PCIBus{}},
		{"query-block", nil, []BlockDevice{}},
		{"qom-list", qomListArgs{}, []QOMProperty{}},
		{"qom-get", qomGetArgs{}, nil},
		{"qom-set", qomSetArgs{}, nil},
		{"human-monitor-command", humanArgs{}, ""},
	}
}

// Events lists every event that this package has a name for.
func Events() []string {
	return []string{EventStop, EventResume, EventReset, EventShutdown, EventPowerdown, EventSuspend, EventWakeup,
		EventGuestPanicked, EventMigration, EventMigrationPass, EventBlockIOError, EventDeviceDeleted}
}

// Check compares what this package speaks with the schema of a binary of version v, and describes each difference:
// nothing if they agree.
func (s *Schema) Check(v Version, uses []Use, events []string) []string {
	check := checker{schema: s, version: v}
	for _, use := range uses {
		command, ok := s.entities[key("command", use.Command)]
		if !ok {
			check.report("%s: no such command", use.Command)
			continue
		}
		if use.Args != nil {
			check.compare(use.Command+" arguments", reflect.TypeOf(use.Args), command.ArgType, true)
		} else {
			check.required(use.Command+" arguments", nil, s.entities[command.ArgType])
		}
		if use.Return != nil {
			check.compare(use.Command+" returns", reflect.TypeOf(use.Return), command.RetType, false)
		}
	}
	for _, name := range events {
		if !s.HasEvent(name) {
			check.report("%s: no such event", name)
		}
	}
	return check.found
}

type checker struct {
	schema  *Schema
	version Version
	found   []string
	path    []reflect.Type // types being compared: some contain themselves
}

func (c *checker) report(format string, args ...any) {
	c.found = append(c.found, fmt.Sprintf(format, args...))
}

// compare a Go type with a QEMU type, what we send or what we read.
func (c *checker) compare(at string, t reflect.Type, name string, sending bool) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t.Kind() == reflect.Interface {
		return
	}
	allowed := c.schema.jsonTypes(name)
	if want := jsonKind(t); !slices.Contains(allowed, want) && !slices.Contains(allowed, "value") {
		c.report("%s: %s here, %s in QEMU", at, want, strings.Join(allowed, " or "))
		return
	}
	switch t.Kind() {
	case reflect.Slice:
		c.compare(at+"[]", t.Elem(), c.schema.entities[name].ElementType, sending)
	case reflect.Struct:
		if slices.Contains(c.path, t) {
			return
		}
		c.path = append(c.path, t)
		c.fields(at, t, c.schema.entities[name], sending)
		c.path = c.path[:len(c.path)-1]
	}
}

func (c *checker) fields(at string, t reflect.Type, e entity, sending bool) {
	members := c.schema.members(e)
	var names []string
	for i := range t.NumField() {
		field := t.Field(i)
		name, options, _ := strings.Cut(field.Tag.Get("json"), ",")
		var major, minor int
		if since := field.Tag.Get("since"); since != "" {
			if _, err := fmt.Sscanf(since, "%d.%d", &major, &minor); err != nil {
				c.report("%s.%s: unreadable since:%q", at, name, since)
			}
		}
		m, ok := members[name]
		if known := c.version.AtLeast(major, minor); ok != known {
			c.report("%s.%s: in QEMU's schema: %t; expected: %t", at, name, ok, known)
			continue
		} else if !ok {
			continue
		}
		if !strings.Contains(options, "omitempty") {
			names = append(names, name)
		}
		c.compare(at+"."+name, field.Type, m.Type, sending)
	}
	if sending {
		c.required(at, names, e)
	}
}

// required reports members that QEMU insists on and we may leave out.
func (c *checker) required(at string, names []string, e entity) {
	for _, m := range e.Members {
		if !m.optional() && !slices.Contains(names, m.Name) {
			c.report("%s.%s: QEMU requires it", at, m.Name)
		}
	}
}

// jsonKind is what a Go type looks like in JSON, in the words of QEMU's schema.
func jsonKind(t reflect.Type) string {
	switch t.Kind() {
	case reflect.String:
		return "string"
	case reflect.Bool:
		return "boolean"
	case reflect.Int, reflect.Int64:
		return "int"
	case reflect.Slice:
		return "array"
	case reflect.Struct:
		return "object"
	default:
		return t.String()
	}
}
