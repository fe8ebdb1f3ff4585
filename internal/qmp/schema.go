package qmp

import (
	"context"
	"encoding/json"
	"slices"
)

// Schema is what a binary says of its own monitor: which commands and events it has, and what they take and give.
// Names of types in it mean nothing; names of members do.
type Schema struct {
	entities map[string]entity // types by name, commands as "command NAME", events as "event NAME"
}

// entity is an entry of query-qmp-schema; which members it has depends on MetaType.
type entity struct {
	Name        string         `json:"name"`
	MetaType    string         `json:"meta-type"`
	ArgType     string         `json:"arg-type"`
	RetType     string         `json:"ret-type"`
	JSONType    string         `json:"json-type"`    // of a builtin
	ElementType string         `json:"element-type"` // of an array
	Values      []string       `json:"values"`       // of an enum
	Members     []schemaMember `json:"members"`      // of an object, an enum or an alternate
	Variants    []struct {
		Case string `json:"case"`
		Type string `json:"type"`
	} `json:"variants"`
}

type schemaMember struct {
	Name    string          `json:"name"`
	Type    string          `json:"type"`
	Default json.RawMessage `json:"default"` // present, as null, if the member is optional
}

func (m schemaMember) optional() bool { return m.Default != nil }

// QuerySchema reads the schema: one line of 0.2 MB, the same for all guests of a binary.
func (c *Client) QuerySchema(ctx context.Context) (*Schema, error) {
	list, err := ask[[]entity](ctx, c, "query-qmp-schema", nil)
	if err != nil {
		return nil, err
	}
	s := &Schema{entities: make(map[string]entity, len(list))}
	for _, e := range list {
		s.entities[key(e.MetaType, e.Name)] = e
	}
	return s, nil
}

func key(metaType, name string) string {
	if metaType == "command" || metaType == "event" {
		return metaType + " " + name
	}
	return name
}

// HasCommand tells whether the binary has the command.
func (s *Schema) HasCommand(name string) bool {
	_, ok := s.entities[key("command", name)]
	return ok
}

// HasEvent tells whether the binary may send the event.
func (s *Schema) HasEvent(name string) bool {
	_, ok := s.entities[key("event", name)]
	return ok
}

// HasArgument tells whether a command takes an argument. Further names lead into it: HasArgument("migrate", "channels",
// "channel-type").
func (s *Schema) HasArgument(command string, path ...string) bool {
	_, ok := s.argument(command, path)
	return ok
}

// ArgumentValues lists what an argument of an enumerated type may be; nil if it is none, or not there. So
// ArgumentValues("migrate-set-capabilities", "capabilities", "capability") are the migration capabilities.
func (s *Schema) ArgumentValues(command string, path ...string) []string {
	e, ok := s.argument(command, path)
	if !ok || e.MetaType != "enum" {
		return nil
	}
	return e.values()
}

// values of an enum. "values" is going to go, in favour of "members".
func (e entity) values() []string {
	if len(e.Values) > 0 {
		return slices.Clone(e.Values)
	}
	values := make([]string, len(e.Members))
	for i, m := range e.Members {
		values[i] = m.Name
	}
	return values
}

func (s *Schema) argument(command string, path []string) (entity, bool) {
	e, ok := s.entities[key("command", command)]
	if !ok {
		return entity{}, false
	}
	types := []string{e.ArgType}
	for _, name := range path {
		if types = s.members(types)[name]; types == nil {
			return entity{}, false
		}
		types = s.elements(types)
	}
	return s.entities[types[0]], true
}

// elements replaces arrays by what they are arrays of.
func (s *Schema) elements(types []string) []string {
	types = slices.Clone(types)
	for i := range types {
		for s.entities[types[i]].MetaType == "array" {
			types[i] = s.entities[types[i]].ElementType
		}
	}
	return types
}

// members of objects and of all their variants, with the types that each may have: variants may use a name differently.
func (s *Schema) members(objects []string) map[string][]string {
	all := make(map[string][]string)
	for _, object := range objects {
		e := s.entities[object]
		for _, m := range e.Members {
			if !slices.Contains(all[m.Name], m.Type) {
				all[m.Name] = append(all[m.Name], m.Type)
			}
		}
		for _, v := range e.Variants {
			for name, types := range s.members([]string{v.Type}) {
				all[name] = append(all[name], types...)
			}
		}
	}
	return all
}

// jsonTypes are the kinds of JSON value that types allow: "object", "array", "string", "int", "number", "boolean",
// "null"; "value" is any.
func (s *Schema) jsonTypes(types []string) []string {
	var all []string
	for _, name := range types {
		switch e := s.entities[name]; e.MetaType {
		case "builtin":
			all = append(all, e.JSONType)
		case "enum":
			all = append(all, "string")
		case "array", "object":
			all = append(all, e.MetaType)
		case "alternate":
			for _, m := range e.Members {
				all = append(all, s.jsonTypes([]string{m.Type})...)
			}
		default:
			all = append(all, "unknown type "+name)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}
