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
		{"qmp_capabilities", nil, nil},
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
		{"query-fdsets", nil, []fdsetInfo{}},
		{"display-update", displayUpdateArgs{}, nil},
		{"query-vnc-servers", nil, []VNCServer{}},
		{"x-query-ramblock", nil, textReturn{}},
		{"query-memdev", nil, []MemoryBackend{}},
		{"query-memory-devices", nil, []MemoryDevice{}},
		{"query-machines", nil, []Machine{}},
		{"query-uuid", nil, uuidReturn{}},
		{"query-name", nil, nameReturn{}},
		{"query-vm-generation-id", nil, guidReturn{}},
		{"query-cpus-fast", nil, []CPU{}},
		{"query-iothreads", nil, []IOThread{}},
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
			check.compare(use.Command+" arguments", reflect.TypeOf(use.Args), []string{command.ArgType}, true)
		} else {
			check.required(use.Command+" arguments", nil, []string{command.ArgType})
		}
		if use.Return != nil {
			check.compare(use.Command+" returns", reflect.TypeOf(use.Return), []string{command.RetType}, false)
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

// compare a Go type with the types that QEMU has in its place, what we send or what we read.
func (c *checker) compare(at string, t reflect.Type, types []string, sending bool) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t.Kind() == reflect.Interface {
		return
	}
	allowed := c.schema.jsonTypes(types)
	if want := jsonKind(t); !slices.Contains(allowed, want) && !slices.Contains(allowed, "value") {
		c.report("%s: %s here, %s in QEMU", at, want, strings.Join(allowed, " or "))
		return
	}
	switch t.Kind() {
	case reflect.Slice:
		c.compare(at+"[]", t.Elem(), c.schema.elements(types), sending)
	case reflect.Struct:
		if slices.Contains(c.path, t) {
			return
		}
		c.path = append(c.path, t)
		c.fields(at, t, types, sending)
		c.path = c.path[:len(c.path)-1]
	}
}

func (c *checker) fields(at string, t reflect.Type, types []string, sending bool) {
	members := c.schema.members(types)
	var always []string
	for i := range t.NumField() {
		field := t.Field(i)
		name, options, _ := strings.Cut(field.Tag.Get("json"), ",")
		expected := c.expected(at+"."+name, field)
		if known := members[name] != nil; known != expected {
			c.report("%s.%s: in QEMU's schema: %t; expected: %t", at, name, known, expected)
			continue
		} else if !known {
			continue
		}
		if !strings.Contains(options, "omitempty") {
			always = append(always, name)
		}
		c.compare(at+"."+name, field.Type, members[name], sending)
	}
	if sending {
		c.required(at, always, types)
	}
}

// expected tells whether this version should know a field.
func (c *checker) expected(at string, field reflect.StructField) bool {
	var major, minor int
	if since := field.Tag.Get("since"); since != "" {
		if _, err := fmt.Sscanf(since, "%d.%d", &major, &minor); err != nil {
			c.report("%s: unreadable since:%q", at, since)
		}
	}
	return c.version.AtLeast(major, minor)
}

// required reports members that QEMU insists on and we may leave out.
func (c *checker) required(at string, always, types []string) {
	for _, name := range types {
		for _, m := range c.schema.entities[name].Members {
			if !m.optional() && !slices.Contains(always, m.Name) {
				c.report("%s.%s: QEMU requires it", at, m.Name)
			}
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
	case reflect.Float64:
		return "number"
	case reflect.Slice:
		return "array"
	case reflect.Struct:
		return "object"
	default:
		return t.String()
	}
}
